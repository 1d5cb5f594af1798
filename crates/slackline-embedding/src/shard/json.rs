//! What JSON a header may hold: strings, whole numbers, lists of these, and objects. No key stands twice.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde_core::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    String(String),
    Number(u64),
    Numbers(Vec<u64>),
    Object(BTreeMap<String, Json>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(AnyOf)
    }
}

struct AnyOf;

impl<'de> Visitor<'de> for AnyOf {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number from 0, a list of these numbers or an object")
    }

    fn visit_str<E: Error>(self, string: &str) -> Result<Json, E> {
        Ok(Json::String(string.to_owned()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            numbers.push(number);
        }
        Ok(Json::Numbers(numbers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(key) = object.next_key::<String>()? {
            match fields.entry(key) {
                // Readers differ in which one they take.
                Entry::Occupied(entry) => return Err(A::Error::custom(format!("{:?} stands twice", entry.key()))),
                Entry::Vacant(entry) => entry.insert(object.next_value()?),
            };
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        let once = r#"{"a":{"b":1,"c":[2,3]},"d":"e"}"#;
        assert!(serde_json::from_str::<Json>(once).is_ok());
        for twice in [r#"{"a":"1","a":"2"}"#, r#"{"d":{"b":1,"c":[2],"b":1}}"#, r#"{"d":{},"e":{"f":{"a":1,"a":1}}}"#] {
            let error = serde_json::from_str::<Json>(twice).unwrap_err().to_string();
            assert!(error.contains("stands twice at line 1 column"), "{error}");
        }
    }

    #[test]
    fn other_json_is_refused() {
        for other in ["null", "true", "-1", "0.5", "[-1]", r#"["a"]"#, "[[1]]", "1e3", r#"{"a":null}"#, "{} {}"] {
            assert!(serde_json::from_str::<Json>(other).is_err(), "{other}");
        }
    }
}
