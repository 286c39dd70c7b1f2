//! Settings that a guest must have been created with for its drivers to work, as libxl records them.

use serde_json::Value;

/// Its answer to one need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Has {
    Yes,
    No,
    /// Nobody outside of the guest knows.
    Unknown,
}

/// Whether its memory leaves a hole where devices' registers are.
pub(crate) fn e820_host(config: Option<&Value>) -> Has {
    match config.map(|config| find(config, "e820_host")) {
        Some(Some(Value::Bool(true))) => Has::Yes,
        Some(Some(Value::String(text))) if text.eq_ignore_ascii_case("true") => Has::Yes,
        // libxl leaves out what has its default, and that is no.
        Some(_) => Has::No,
        None => Has::Unknown,
    }
}

/// Whether Linux in it is told to have memory for DMA buffers: `iommu=soft`, or `swiotlb=force`. A boot loader (pygrub, a grub as the
/// kernel) finds the command line inside of the guest.
pub(crate) fn bounce_buffers(config: Option<&Value>) -> Has {
    let text = |key| config.and_then(|config| find(config, key)).and_then(Value::as_str).unwrap_or_default();
    let kernel = text("kernel");
    if kernel.is_empty() || !text("bootloader").is_empty() || kernel.contains("grub") {
        return Has::Unknown;
    }
    let says = |word: &str| {
        let is_among = |values: &str, wanted| values.split(',').any(|value| value == wanted);
        match word.split_once('=') {
            Some(("iommu", values)) => is_among(values, "soft"),
            Some(("swiotlb", values)) => is_among(values, "force"),
            _ => false,
        }
    };
    if text("cmdline").split_ascii_whitespace().any(says) { Has::Yes } else { Has::No }
}

/// Notes about settings that a guest with devices lacks, as far as libxl knows them.
pub(crate) fn lacks(config: Option<&Value>) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if e820_host(config) == Has::No {
        lacks.push("it was created without e820_host=1: its memory may lie where the devices' registers are, and its drivers find none");
    }
    if bounce_buffers(config) == Has::No {
        lacks.push(
            "its kernel's command line (extra=) has no iommu=soft: Linux may have no memory, or too little, for the devices' DMA buffers",
        );
    }
    lacks
}

/// The value of a key, wherever in the document it is.
pub(crate) fn find<'a>(document: &'a Value, key: &str) -> Option<&'a Value> {
    match document {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(info: &str) -> Value {
        serde_json::from_str(&format!(r#"[{{"domid":5,"config":{{"c_info":{{"type":"pv"}},"b_info":{info}}}}}]"#))
            .unwrap()
    }

    #[test]
    fn libxl_says_it_in_several_ways() {
        for (text, want) in [
            (r#"{"type.pv":{"e820_host":"True"}}"#, Has::Yes),
            (r#"{"type.pv":{"e820_host":true}}"#, Has::Yes),
            (r#"{"type.pv":{"e820_host":"False"}}"#, Has::No),
            ("{}", Has::No),
        ] {
            assert_eq!(e820_host(Some(&config(text))), want, "{text}");
        }
        assert_eq!(e820_host(None), Has::Unknown);
    }

    #[test]
    fn the_command_line_says_whether_there_are_bounce_buffers() {
        let with = |line: &str| config(&format!(r#"{{"kernel":"/boot/vmlinuz","cmdline":"{line}","type.pv":{{}}}}"#));
        for line in [
            "iommu=soft",
            "root=/dev/xvda1 ro iommu=soft quiet",
            "swiotlb=force",
            "swiotlb=65536,force",
            "iommu=pt,soft",
        ] {
            assert_eq!(bounce_buffers(Some(&with(line))), Has::Yes, "{line}");
        }
        for line in ["", "root=/dev/xvda1 ro quiet", "swiotlb=65536", "iommu=softer", "xiommu=soft", "iommu soft"] {
            assert_eq!(bounce_buffers(Some(&with(line))), Has::No, "{line}");
        }
        assert_eq!(bounce_buffers(Some(&config(r#"{"kernel":"/boot/vmlinuz"}"#))), Has::No);
        for elsewhere in [
            r#"{"bootloader":"pygrub"}"#,
            r#"{"kernel":"/var/run/xen/kernel.x","bootloader":"/usr/bin/pygrub"}"#,
            r#"{"kernel":"/usr/lib/grub-xen/grub-x86_64-xen.bin"}"#,
            "{}",
        ] {
            assert_eq!(bounce_buffers(Some(&config(elsewhere))), Has::Unknown, "{elsewhere}");
        }
        assert_eq!(bounce_buffers(None), Has::Unknown);
        assert!(lacks(None).is_empty());
    }
}
