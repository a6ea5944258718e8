//! The language as a JSON schema: the leaves that read their own text, and the whole.
//!
//! It describes the records as serde sees them (a RON variant `Xdp(prog: "p")` is
//! `{"Xdp": {"prog": "p"}}`): for generators of scenarios, for editors that map it to RON, and for
//! the test that holds the reference page to it.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::expect::On;
use super::machine::{Cpus, End, Ip, Order, Prefix};
use super::packet::{Dist, HexBytes};
use super::play::Values;
use super::{NamedCounts, Names, Scenario};
use crate::leaf::{Bytes, Data, Is, Mac, Rate, TcpFlags, TextIs, Time};
use crate::span::Spanned;

/// The schema of a scenario file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Scenario).to_value()
}

/// Records and forms that have a field.
#[must_use]
pub fn owners(field: &str) -> Vec<String> {
    let schema = schema();
    let has = |v: &serde_json::Value| v["properties"].get(field).is_some();
    let mut out = Vec::new();
    if has(&schema) {
        out.push("Scenario".to_owned());
    }
    for (name, def) in schema["$defs"].as_object().into_iter().flatten() {
        if has(def) {
            out.push(name.clone());
        }
        let forms = def["oneOf"].as_array().into_iter().flatten();
        for (form, fields) in forms.filter_map(|f| f["properties"].as_object()).flatten() {
            if has(fields) {
                out.push(form.clone());
            }
        }
    }
    out
}

/// A leaf: a name and what its text looks like.
macro_rules! leaf_schema {
    ($($t:ty, $name:literal, $json:tt);+ $(;)?) => {$(
        impl JsonSchema for $t {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($json)
            }
        }
    )+};
}

leaf_schema! {
    Time, "Time", { "type": "string", "examples": ["10us", "500insns"],
        "description": "virtual time: a number and one of insns ns us ms s" };
    Bytes, "Bytes", { "type": "string", "examples": ["64B", "16MiB"],
        "description": "a size: a number and one of B KiB MiB GiB kB MB GB pages" };
    Rate, "Rate", { "type": "string", "examples": ["1Mpps", "20kHz", "10Gbps"],
        "description": "a rate: a number and one of pps kpps Mpps Hz kHz MHz bps kbps Mbps Gbps" };
    Mac, "Mac", { "type": "string", "examples": ["02:00:00:00:00:01"] };
    TcpFlags, "TcpFlags", { "type": "string", "pattern": "^[FSRPAUEC]*$" };
    TextIs, "Text", { "type": "string", "description": "text that has to occur" };
    HexBytes, "HexBytes", { "type": "string", "examples": ["de ad be ef"] };
    Ip, "Ip", { "type": "string", "examples": ["10.0.0.1", "fd00::1"] };
    End, "End", { "type": "string", "examples": ["10.0.0.1:80", "[fd00::1]:80"] };
    Prefix, "Prefix", { "type": "string", "examples": ["10.1.0.0/16", "fd00::/64"] };
    Data, "Data", { "description": "a value or pattern that the BTF of the object types" };
    Dist, "Dist", { "description":
        "Even, Imix, Fixed(\"64B\"), Uniform(from: .., to: ..) or Zipf(s: 1.1)" };
    Order, "Order", { "description": "First, Last, Before(\"p\") or After(\"p\")" };
    Cpus, "Cpus", { "description": "all, or a list of CPUs" };
    Values, "Values", { "description": "a list of values, or a range of numbers" };
    On, "On", { "description": "a nic by name, or Up(\"eth0\"): what goes up the stack there" };
}

impl JsonSchema for NamedCounts {
    fn schema_name() -> Cow<'static, str> {
        "NamedCounts".into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        let count = g.subschema_for::<Is<u64>>();
        json_schema!({ "type": "object", "additionalProperties": count,
            "description": "counts by name, as in (DROP: 3, PASS: _)" })
    }
}

impl<T: JsonSchema> JsonSchema for Names<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Names_of_{}", T::schema_name()).into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        let value = g.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value,
            "description": "a map from names to things, each name once" })
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        g.subschema_for::<T>()
    }
}

impl<T: JsonSchema> JsonSchema for Is<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Is_{}", T::schema_name()).into()
    }

    fn json_schema(g: &mut SchemaGenerator) -> Schema {
        let value = g.subschema_for::<T>();
        json_schema!({ "anyOf": [value,
            { "description": "a pattern: _, a..=b, a.., ..=b, OneOf([..]), Not(v); Bad" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::schema;
    use serde_json::Value;

    /// Every object in a schema, with the way to it.
    fn objects<'a>(at: &str, v: &'a Value, out: &mut Vec<(String, &'a Value)>) {
        match v {
            Value::Object(fields) => {
                if fields.get("properties").is_some() {
                    out.push((at.to_owned(), v));
                }
                for (name, value) in fields {
                    objects(&format!("{at}/{name}"), value, out);
                }
            }
            Value::Array(items) => {
                for (n, value) in items.iter().enumerate() {
                    objects(&format!("{at}/{n}"), value, out);
                }
            }
            _ => {}
        }
    }

    /// Nothing is silent: a record without `deny_unknown_fields` would swallow a misspelt field.
    #[test]
    fn every_record_refuses_unknown_fields() {
        let schema = schema();
        let mut found = Vec::new();
        objects("", &schema, &mut found);
        assert!(found.len() > 60, "only {} records", found.len());
        for (at, object) in found {
            assert_eq!(object.get("additionalProperties"), Some(&Value::Bool(false)), "{at}");
        }
    }

    /// Bare names: unit variants and the names of `names!`.
    fn names<'a>(at: &str, v: &'a Value, out: &mut Vec<(String, &'a str)>) {
        match v {
            Value::Object(fields) => {
                let listed = fields.get("enum").and_then(Value::as_array);
                let one = fields.get("const").into_iter();
                let all = listed.into_iter().flatten().chain(one).filter_map(Value::as_str);
                out.extend(all.map(|name| (at.to_owned(), name)));
                fields.iter().for_each(|(n, v)| names(&format!("{at}/{n}"), v, out));
            }
            Value::Array(items) => items.iter().for_each(|v| names(at, v, out)),
            _ => {}
        }
    }

    /// Every field, every variant and every name is on the reference page.
    #[test]
    fn the_reference_page_names_everything() {
        let page = crate::reference::page();
        let schema = schema();
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        objects("", &schema, &mut found);
        names("", &schema, &mut wanted);
        for (at, object) in &found {
            let fields = object["properties"].as_object().into_iter().flat_map(|p| p.keys());
            wanted.extend(fields.map(|name| (at.clone(), name.as_str())));
        }
        let word = |c: char| !c.is_alphanumeric() && c != '_';
        let words: std::collections::BTreeSet<&str> = page.split(word).collect();
        let missing: Vec<String> = wanted
            .iter()
            .filter(|(_, name)| !words.contains(name))
            .map(|(at, name)| format!("{at}: {name}"))
            .collect();
        assert!(missing.is_empty(), "not on the page:\n{}", missing.join("\n"));
    }
}
