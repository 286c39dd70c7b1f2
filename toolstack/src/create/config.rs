//! Reads an xl configuration as far as needed to take the devices out of it and to know the guest.

use std::ops::Range;

use super::lexer::{Lexer, Token, Word};

pub(crate) use super::lexer::SyntaxError;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    /// Each item with the line that it begins in.
    List(Vec<(usize, Value)>),
}

/// One `NAME = VALUE` or `NAME += VALUE`.
#[derive(Clone, Debug)]
struct Setting {
    name: String,
    value: Value,
    line: usize,
    span: Range<usize>,
    appends: bool,
}

/// A configuration that xl would take.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    text: Vec<u8>,
    settings: Vec<Setting>,
}

impl Config {
    /// Reads the whole of it.
    pub(crate) fn parse(text: Vec<u8>) -> Result<Self, SyntaxError> {
        let mut parser = Parser::new(&text)?;
        let mut settings = Vec::new();
        while let Some(setting) = parser.statement()? {
            settings.push(setting);
        }
        Ok(Self { text, settings })
    }

    /// The final value of a name and the line of its last setting: later settings win, `+=` appends.
    pub(crate) fn get(&self, name: &str) -> Result<Option<(usize, Value)>, SyntaxError> {
        let mut found: Option<(usize, Value)> = None;
        for Setting { value, line, appends, .. } in self.settings.iter().filter(|setting| setting.name == name) {
            let value = match (found.take(), value.clone()) {
                (Some((_, old)), value) if *appends => join(old, value).ok_or_else(|| SyntaxError {
                    line: *line,
                    what: format!("+= cannot join a list and a single value of {name}"),
                })?,
                (_, value) => value,
            };
            found = Some((*line, value));
        }
        Ok(found)
    }

    /// A single value.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, SyntaxError> {
        match self.get(name)? {
            None => Ok(None),
            Some((_, Value::Text(text))) => Ok(Some(text)),
            Some((line, Value::List(_))) => {
                Err(SyntaxError { line, what: format!("{name} is a list and should be a single value") })
            }
        }
    }

    /// A number that says yes or no. Like xl, in C's notations.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, SyntaxError> {
        let Some((line, value)) = self.get(name)? else { return Ok(false) };
        let number = match &value {
            Value::Text(text) => c_number(text),
            Value::List(_) => None,
        };
        number.map(|number| number != 0).ok_or_else(|| SyntaxError { line, what: format!("{name} should be a number") })
    }

    /// A list of single values, each with its line; empty where there is none.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<(usize, String)>, SyntaxError> {
        let Some((line, value)) = self.get(name)? else { return Ok(Vec::new()) };
        let Value::List(items) = value else {
            let what = format!("{name} is a single value and should be a list: [ \"…\" ]");
            return Err(SyntaxError { line, what });
        };
        let text = |(line, item)| match item {
            Value::Text(text) => Ok((line, text)),
            Value::List(_) => Err(SyntaxError { line, what: format!("{name} has a list in its list") }),
        };
        items.into_iter().map(text).collect()
    }

    /// The text with every setting of these names taken out; what stays keeps its line.
    pub(crate) fn without(&self, names: &[&str]) -> Vec<u8> {
        let mut text = self.text.clone();
        for setting in self.settings.iter().filter(|setting| names.contains(&setting.name.as_str())) {
            for byte in text.get_mut(setting.span.clone()).into_iter().flatten() {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        text
    }
}

fn join(old: Value, new: Value) -> Option<Value> {
    match (old, new) {
        (Value::Text(old), Value::Text(new)) => Some(Value::Text(old + &new)),
        (Value::List(old), Value::List(new)) => Some(Value::List([old, new].concat())),
        _ => None,
    }
}

/// A number as `strtoul(…, 0)` reads it.
fn c_number(text: &str) -> Option<u64> {
    match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    word: Word,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut lexer = Lexer::new(text);
        let word = lexer.next()?;
        Ok(Self { lexer, word })
    }

    /// Takes the word that is next.
    fn bump(&mut self) -> Result<Word, SyntaxError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.word, next))
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.word.line, what: what.into() })
    }

    /// The next setting, `None` at the end. Settings end with their line or with `;`.
    fn statement(&mut self) -> Result<Option<Setting>, SyntaxError> {
        while matches!(self.word.token, Token::Newline | Token::Symbol(b';')) {
            self.bump()?;
        }
        let Word { token, span, line } = self.bump()?;
        let name = match token {
            Token::Name(name) => name,
            Token::End => return Ok(None),
            _ => return Err(SyntaxError { line, what: "want the name of a setting".to_owned() }),
        };
        let appends = match self.word.token {
            Token::Symbol(b'=') => false,
            Token::Append => true,
            _ => return self.error(format!("want = behind {name}")),
        };
        self.bump()?;
        let (value, end) = self.value()?;
        match self.word.token {
            Token::Newline | Token::Symbol(b';') | Token::End => {}
            _ => return self.error(format!("want the end of the line, or ;, behind the value of {name}")),
        }
        Ok(Some(Setting { name, value, line, span: span.start..end, appends }))
    }

    /// A value and where it ends. Lines may end anywhere inside a list.
    fn value(&mut self) -> Result<(Value, usize), SyntaxError> {
        let Word { token, span, line } = self.bump()?;
        match token {
            Token::Atom(text) => return Ok((Value::Text(text), span.end)),
            Token::Symbol(b'[') => {}
            Token::Name(word) => {
                return Err(SyntaxError { line, what: format!("want a value: {word} needs quotes") });
            }
            _ => {
                return Err(SyntaxError {
                    line,
                    what: "want a value: a string in quotes, a number or a list".to_owned(),
                });
            }
        }
        let mut items = Vec::new();
        loop {
            self.skip_newlines()?;
            if self.word.token != Token::Symbol(b']') {
                let line = self.word.line;
                items.push((line, self.value()?.0));
                self.skip_newlines()?;
            }
            match self.word.token {
                Token::Symbol(b',') if !items.is_empty() => drop(self.bump()?),
                Token::Symbol(b']') => return Ok((Value::List(items), self.bump()?.span.end)),
                _ => return self.error(format!("want , or ] in the list that begins in line {line}")),
            }
        }
    }

    fn skip_newlines(&mut self) -> Result<(), SyntaxError> {
        while self.word.token == Token::Newline {
            self.bump()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(text: &str) -> Config {
        Config::parse(text.as_bytes().to_vec()).unwrap()
    }

    fn error(text: &str) -> (usize, String) {
        let error = Config::parse(text.as_bytes().to_vec()).unwrap_err();
        (error.line, error.what)
    }

    const GUEST: &str = "# a guest\n\
        name = \"web\"; memory=256\n\
        \n\
        pci = [ '05:00.0@3,seize=1', # the disk\n\
        \t\"06:00.0\",\n\
        ]\n\
        extra = 'pci=nomsi ; quiet'\n\
        cpus = 0x2";

    #[test]
    fn settings_are_found_whatever_stands_around_them() {
        let config = config(GUEST);
        assert_eq!(config.text("name").unwrap().as_deref(), Some("web"));
        assert_eq!(config.text("memory").unwrap().as_deref(), Some("256"));
        assert_eq!(config.text("extra").unwrap().as_deref(), Some("pci=nomsi ; quiet"));
        assert_eq!(config.list("pci").unwrap(), [(4, "05:00.0@3,seize=1".to_owned()), (5, "06:00.0".to_owned())]);
        assert_eq!(config.list("vif").unwrap(), []);
        let dotted = self::config("vif.default.script = 'x'\na.b.='y'");
        assert_eq!(dotted.text("vif.default.script").unwrap().as_deref(), Some("x"));
        assert!(config.flag("cpus").unwrap() && !config.flag("nothing").unwrap());
    }

    #[test]
    fn what_is_taken_out_leaves_the_lines_of_the_rest() {
        let text = String::from_utf8(config(GUEST).without(&["pci"])).unwrap();
        assert_eq!(text.lines().count(), GUEST.lines().count());
        assert!(!text.contains("seize") && text.contains("pci=nomsi") && text.ends_with("cpus = 0x2"), "{text}");
        let rest = Config::parse(text.into_bytes()).unwrap();
        assert_eq!(rest.list("pci").unwrap(), []);
        let all = config("pci=['a'];name=\"x\";pci=[\n'b'\n]\npci+=['c']").without(&["pci"]);
        assert_eq!(String::from_utf8(all).unwrap().split_whitespace().collect::<String>(), ";name=\"x\";");
    }

    #[test]
    fn later_settings_win_and_additions_join() {
        assert_eq!(config("a='1'\na='2'").text("a").unwrap().as_deref(), Some("2"));
        assert_eq!(config("a='1'\na+='2'").text("a").unwrap().as_deref(), Some("12"));
        let joined = [(1, "1".to_owned()), (2, "2".to_owned())];
        assert_eq!(config("a+=['1']\na += ['2',]").list("a").unwrap(), joined);
        assert_eq!(config("a=['1']\na=[]").list("a").unwrap(), []);
        assert_eq!(config("a='1'\na+=['2']").get("a").unwrap_err().line, 2);
    }

    #[test]
    fn strings_have_the_escapes_of_c() {
        let text = |text: &str| config(text).text("a").unwrap().unwrap();
        assert_eq!(text(r"a = 'x\ty\\\x41\101\n'"), "x\ty\\AA\n");
        assert_eq!(text("a = \"it's # no comment\""), "it's # no comment");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, word) in [
            ("a", 1, "want = behind a"),
            ("\na = b", 2, "b needs quotes"),
            ("a = 'b", 1, "second quote"),
            ("a = 'b\n'", 1, "second quote"),
            ("a = 'b' c = 'd'", 1, "behind the value of a"),
            ("a = [ 'b' 'c' ]", 1, "want , or ]"),
            ("a = [\n'b'\n;", 3, "begins in line 1"),
            ("a = [ , ]", 1, "want a value"),
            ("a = [", 1, "want a value"),
            ("a =", 1, "want a value"),
            ("= 3", 1, "name of a setting"),
            ("A = 3", 1, "unexpected 'A'"),
            ("_a = 3", 1, "unexpected '_'"),
            (".a = 3", 1, "unexpected '.'"),
            ("a-b = 3", 1, "unexpected '-'"),
            ("a = 1.5", 1, "unexpected '.'"),
            ("a = 3\r\n", 1, "carriage return"),
            ("a = '\\q'", 1, "backslash"),
            ("a = \"\\x\"", 1, "backslash"),
            ("a = \"\\777\"", 1, "backslash"),
            ("if a:\n", 1, "want = behind if"),
        ] {
            let (at, what) = error(text);
            assert!(at == line && what.contains(word), "{text:?}: line {at}: {what}");
        }
        assert_eq!(config("pci = 'x'").list("pci").unwrap_err().line, 1);
        assert!(config("a = [['x']]").list("a").unwrap_err().what.contains("list in its list"));
        assert!(config("a = 'yes'").flag("a").unwrap_err().what.contains("number"));
        assert!(config("a = [1]").text("a").unwrap_err().what.contains("single"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ a-c0-9x=+\\[\\],;'\"\\\\#\n\r]{0,40}") {
            if let Ok(config) = Config::parse(text.clone().into_bytes()) {
                // Taking everything out leaves nothing but what separates settings.
                let left = String::from_utf8(config.without(&["a", "b", "c"])).unwrap();
                prop_assert_eq!(left.len(), text.len());
                prop_assert!(Config::parse(left.into_bytes()).is_ok());
            }
        }
    }
}
