//! The JSON forms are what `docs/schema` says.
//!
//! The validator knows the keywords that these schemas use and refuses any other: a crate that knows all of JSON Schema brings seventy
//! more with it.

use std::time::Duration;

use serde_json::Value;

use super::{add_all, attach_to_web, attached, request};
use crate::cli::list;
use crate::cli::report::Report;
use crate::cli::show::show;
use crate::cli::status::status;
use crate::doctor::{Opened, examine};
use crate::error::{DomainName, Error};
use crate::fake::{EDU, Machine, MachineWithStub, STUB, WEB, device};
use crate::ops::attach::attach;
use crate::ops::replace::Started;

/// Fails with the place where the document is not what the schema says.
#[track_caller]
fn assert_valid(schema: &str, document: &str) {
    let (schema, document) = (parse(schema), parse(document));
    if let Err(why) = validate(&schema, &schema, &document) {
        panic!("{why}\n{document:#}");
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn validate(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let complain = |why: String| Err(format!("{value} {why}"));
    for (keyword, rule) in schema.as_object().ok_or("a schema is an object")? {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => validate(root, definition(root, rule)?, value)?,
            "const" if rule != value => return complain(format!("is not {rule}")),
            "enum" if !list(rule).contains(value) => return complain(format!("is none of {rule}")),
            "type" if !types(rule).any(|name| is_of_type(value, name)) => return complain(format!("is no {rule}")),
            "const" | "enum" | "type" => {}
            "anyOf" => {
                if !list(rule).iter().any(|schema| validate(root, schema, value).is_ok()) {
                    return complain(format!("is none of {rule}"));
                }
            }
            "required" => {
                if let Some(missing) = types(rule).find(|name| value.is_object() && value.get(name).is_none()) {
                    return complain(format!("has no {missing}"));
                }
            }
            "properties" => {
                for (name, schema) in rule.as_object().ok_or("properties are an object")? {
                    if let Some(value) = value.get(name) {
                        validate(root, schema, value).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
            }
            "additionalProperties" if rule == &Value::Bool(false) => {
                let known = |name: &String| schema["properties"].get(name).is_some();
                let names = value.as_object().into_iter().flat_map(|map| map.keys());
                if let Some(name) = names.into_iter().find(|name| !known(name)) {
                    return complain(format!("has {name}"));
                }
            }
            "items" => list(value).iter().try_for_each(|item| validate(root, rule, item))?,
            other => return Err(format!("the validator does not know {other}")),
        }
    }
    Ok(())
}

fn definition<'a>(root: &'a Value, rule: &Value) -> Result<&'a Value, String> {
    let name = rule.as_str().and_then(|name| name.strip_prefix('#')).ok_or("a reference within the schema")?;
    root.pointer(name).ok_or_else(|| format!("no {name}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// One name or several.
fn types(rule: &Value) -> impl Iterator<Item = &str> {
    rule.as_str().into_iter().chain(list(rule).iter().filter_map(Value::as_str))
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

const LIST: &str = include_str!("../../../docs/schema/list.json");
const STATUS: &str = include_str!("../../../docs/schema/status.json");
const SHOW: &str = include_str!("../../../docs/schema/show.json");
const RESULT: &str = include_str!("../../../docs/schema/result.json");
const DOCTOR: &str = include_str!("../../../docs/schema/doctor.json");

#[test]
fn listings_are_as_described() {
    let assert_list = |machine: &Machine| {
        assert_valid(LIST, &list::json(&list::devices(&machine.host, None).unwrap()));
        assert_valid(LIST, &list::json(&list::assignable(&machine.host).unwrap()));
    };
    let machine = Machine::new();
    assert_list(&machine);
    add_all(&machine);
    assert_list(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_list(&machine);
    machine.with(|world| {
        world.write("/local/domain/3/pool/0000-00-05-0/state", "absent 5");
        world.write("/tool/pcidom/device/0000-00-06-0/phase", "leaked");
        world.write("/tool/pcidom/device/0000-00-06-0/leaked", "3 mappings");
        world.write("/tool/pcidom/device/0000-00-06-0/persistent", "a-guest");
    });
    assert_list(&machine);
    for gone in [WEB, STUB] {
        let machine = attached();
        machine.with(|world| world.destroy(gone));
        assert_list(&machine);
    }
}

#[test]
fn the_status_is_as_described() {
    let machine = MachineWithStub::new();
    attach(&machine.host, &request("web", &[EDU])).unwrap();
    let status_of_all = status(&machine.host, "pcidom").unwrap();
    status_of_all.check().unwrap();
    assert_valid(STATUS, &status_of_all.json());
    assert_valid(STATUS, &status(&Machine::new().host, "pcidom").unwrap().json());
    let described = parse(STATUS)["properties"]["statistics"]["properties"].as_object().unwrap().len();
    assert_eq!(described, pcidom_abi::statistics::COUNT);
}

#[test]
fn what_a_guest_sees_is_as_described() {
    for machine in [Machine::new(), attached()] {
        assert_valid(SHOW, &show(&machine.host, device(EDU)).unwrap().json());
    }
    let machine = MachineWithStub::new();
    attach(&machine.host, &request("web", &[&format!("{EDU},hide=msi,permissive=1")])).unwrap();
    assert_valid(SHOW, &show(&machine.host, device(EDU)).unwrap().json());
}

#[test]
fn what_became_of_a_command_is_as_described() {
    let done = Report::new("attach", true);
    assert_valid(RESULT, &done.finish(&Ok(()), vec!["a note".to_owned()]).unwrap());
    let mut planned = Report::new("assignable add", true);
    planned.lines(vec!["a step".to_owned()], String::new).unwrap();
    assert_valid(RESULT, &planned.finish(&Ok(()), Vec::new()).unwrap());
    let failed = Report::new("create", true).finish(&Err(Error::NoSuchGuest("web".to_owned())), Vec::new()).unwrap();
    assert_valid(RESULT, &failed);
    let json = parse(&failed);
    assert_eq!(
        (&json["code"], &json["exit_code"], &json["outcome"]),
        (&"E_NO_GUEST".into(), &1.into(), &"failed".into())
    );
    assert_eq!(
        (&json["error"], &json["hint"]),
        (&"there is no guest web".into(), &"`xl list` shows the guests".into())
    );
    let mut report = Report::new("restart", true);
    let stub = DomainName { id: STUB, name: None };
    let (release, took) = ("0.1.0".to_owned(), Duration::from_millis(3));
    let started = Started { stub, before: release.clone(), release, took, took_inside: took, frontends: Some(3) };
    report.started(&started).unwrap();
    assert_valid(RESULT, &report.finish(&Ok(()), Vec::new()).unwrap());
    assert_eq!(
        started.to_string(),
        "domain 3 runs 0.1.0 and serves 3 frontends; it was away for 3 ms, 3000 us of them for its own start"
    );
    assert!(Report::new("create", false).finish(&Ok(()), Vec::new()).is_none(), "nobody has asked for it");
    let schema = parse(RESULT);
    let codes: Vec<&str> = types(&schema["properties"]["code"]["enum"]).collect();
    let known: Vec<&str> = crate::manual::ERROR_CODES.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, known);
}

#[test]
fn what_the_doctor_finds_is_as_described() {
    let names = ["web", "windows", "00:09.0"].map(str::to_owned);
    assert_valid(DOCTOR, &examine(&Opened::of(attached().host), "pcidom", &names).json());
    assert_valid(DOCTOR, &examine(&Opened::of(Machine::new().host), "nobody", &[]).json());
}

#[test]
fn the_validator_notices() {
    for (schema, document) in [
        (r#"{"type":"integer"}"#, "\"1\""),
        (r#"{"const":1}"#, "2"),
        (r#"{"enum":["a",null]}"#, "\"b\""),
        (r#"{"required":["a"]}"#, "{}"),
        (r#"{"additionalProperties":false,"properties":{}}"#, r#"{"a":1}"#),
        (r#"{"properties":{"a":{"type":"null"}}}"#, r#"{"a":1}"#),
        (r#"{"items":{"type":"null"}}"#, "[null,1]"),
        (r##"{"$ref":"#/$defs/a","$defs":{"a":{"type":"null"}}}"##, "1"),
        (r#"{"anyOf":[{"type":"null"},{"type":"string"}]}"#, "1"),
        (r#"{"minimum":3}"#, "4"),
    ] {
        let schema = parse(schema);
        assert!(validate(&schema, &schema, &parse(document)).is_err(), "{schema} {document}");
    }
}
