//! A YAML document, deserialized from the events of a parser: as much of YAML as a manifest has.
//!
//! Scalars are resolved as JSON's are; tags are ignored; aliases are refused. Nodes and nesting are bounded, and nodes that
//! are not asked for are skipped without being kept.

use std::borrow::Cow;
use std::fmt;

use granit_parser::{Event, Parser, ScalarStyle, StrInput};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Deserializes the only document of `text`, which has at most `max_nodes` nodes, nested at most `max_depth` levels.
pub(crate) fn from_str<'de, T: Deserialize<'de>>(
    text: &'de str,
    max_nodes: usize,
    max_depth: usize,
) -> Result<T, YamlError> {
    let mut document = Document {
        parser: Parser::new_from_str(text),
        peeked: None,
        line: 1,
        column: 1,
        nodes: max_nodes,
        depth: max_depth,
        max_nodes,
        max_depth,
    };
    let read = document.start().and_then(|()| T::deserialize(&mut document));
    let read = read.and_then(|value| document.end().map(|()| value));
    read.map_err(|error| YamlError(format!("{error} at line {} column {}", document.line, document.column)))
}

/// Why a document cannot be read.
#[derive(Debug)]
pub(crate) struct YamlError(String);

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for YamlError {}

impl serde::de::Error for YamlError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        YamlError(message.to_string())
    }
}

struct Document<'de> {
    parser: Parser<'de, StrInput<'de>>,
    peeked: Option<Event<'de>>,
    /// Position of the last event, from 1.
    line: usize,
    column: usize,
    /// Nodes and levels that are left.
    nodes: usize,
    depth: usize,
    max_nodes: usize,
    max_depth: usize,
}

impl<'de> Document<'de> {
    fn start(&mut self) -> Result<(), YamlError> {
        match (self.next()?, self.next()?) {
            (Event::StreamStart, Event::DocumentStart(..)) => Ok(()),
            _ => Err(YamlError::custom("no document")),
        }
    }

    fn end(&mut self) -> Result<(), YamlError> {
        match (self.next()?, self.next()?) {
            (Event::DocumentEnd, Event::StreamEnd) => Ok(()),
            _ => Err(YamlError::custom("more than one document")),
        }
    }

    fn next(&mut self) -> Result<Event<'de>, YamlError> {
        if let Some(event) = self.peeked.take() {
            return Ok(event);
        }
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                (self.line, self.column) = (span.start.line(), span.start.col() + 1);
                let is_node = match event {
                    Event::Alias(_) => return Err(YamlError::custom("aliases are not supported")),
                    Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => true,
                    _ => false,
                };
                self.nodes = self
                    .nodes
                    .checked_sub(usize::from(is_node))
                    .ok_or_else(|| YamlError::custom(format!("more than {} values", self.max_nodes)))?;
                Ok(event)
            }
            Some(Err(error)) => {
                (self.line, self.column) = (error.marker().line(), error.marker().col() + 1);
                Err(YamlError(error.info()))
            }
            None => Err(YamlError::custom("unexpected end")),
        }
    }

    fn peek(&mut self) -> Result<&Event<'de>, YamlError> {
        let event = self.next()?;
        Ok(self.peeked.insert(event))
    }

    /// The value of a container that has just begun, read one level deeper.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, YamlError>) -> Result<T, YamlError> {
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| YamlError::custom(format!("more than {} levels of nesting", self.max_depth)))?;
        let value = read(self)?;
        self.depth += 1;
        match self.next()? {
            Event::SequenceEnd | Event::MappingEnd => Ok(value),
            _ => Err(YamlError::custom("more values than expected")),
        }
    }

    fn scalar(&mut self) -> Result<Option<Cow<'de, str>>, YamlError> {
        match self.peek()? {
            Event::Scalar(..) => match self.next()? {
                Event::Scalar(text, ..) => Ok(Some(text)),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn is_null(&mut self) -> Result<bool, YamlError> {
        Ok(match self.peek()? {
            Event::Scalar(text, ScalarStyle::Plain, ..) => matches!(&**text, "" | "~" | "null" | "Null" | "NULL"),
            _ => false,
        })
    }
}

fn text<'de, V: Visitor<'de>>(text: Cow<'de, str>, visitor: V) -> Result<V::Value, YamlError> {
    match text {
        Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
        Cow::Owned(text) => visitor.visit_string(text),
    }
}

impl<'de> Deserializer<'de> for &mut Document<'de> {
    type Error = YamlError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        if self.is_null()? {
            self.next()?;
            return visitor.visit_unit();
        }
        match self.next()? {
            Event::Scalar(scalar, ScalarStyle::Plain, ..) => match &*scalar {
                "true" | "True" | "TRUE" => visitor.visit_bool(true),
                "false" | "False" | "FALSE" => visitor.visit_bool(false),
                plain => match (plain.parse(), plain.parse()) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    _ => text(scalar, visitor),
                },
            },
            Event::Scalar(scalar, ..) => text(scalar, visitor),
            Event::SequenceStart(..) => self.nested(|document| visitor.visit_seq(Items(document))),
            Event::MappingStart(..) => self.nested(|document| visitor.visit_map(Items(document))),
            _ => Err(YamlError::custom("a value is missing")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match self.scalar()? {
            Some(scalar) => text(scalar, visitor),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        if self.is_null()? {
            self.next()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        let mut open = 0;
        loop {
            match self.next()? {
                Event::SequenceStart(..) | Event::MappingStart(..) if open == self.depth => {
                    return Err(YamlError::custom(format!("more than {} levels of nesting", self.max_depth)));
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => open += 1,
                Event::SequenceEnd | Event::MappingEnd if open > 0 => open -= 1,
                Event::Scalar(..) => {}
                _ => return Err(YamlError::custom("a value is missing")),
            }
            if open == 0 {
                return visitor.visit_unit();
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum
    }
}

/// The values of the container that was opened last.
struct Items<'a, 'de>(&'a mut Document<'de>);

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = YamlError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, YamlError> {
        match self.0.peek()? {
            Event::SequenceEnd => Ok(None),
            _ => seed.deserialize(&mut *self.0).map(Some),
        }
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = YamlError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, YamlError> {
        match self.0.peek()? {
            Event::MappingEnd => Ok(None),
            _ => seed.deserialize(&mut *self.0).map(Some),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, YamlError> {
        seed.deserialize(&mut *self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::de::IgnoredAny;

    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
        from_str(text, 100, 5).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_read_as_in_json_and_in_block_style() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Entry {
            name: String,
            numbers: Vec<i64>,
            pair: [u64; 2],
            yes: bool,
            none: Option<String>,
            some: Option<String>,
        }
        let expected = Entry {
            name: "a/b \"é\n".to_owned(),
            numbers: vec![1, -2],
            pair: [3, u64::MAX],
            yes: true,
            none: None,
            some: Some("null".to_owned()),
        };
        let json = r#"{"name": "a/b \"\u00e9\n", "numbers": [1, -2], "pair": [3, 18446744073709551615], "other": {"a": [{}]},
                       "yes": true, "none": null, "some": "null"}"#;
        let block = "# comment\nname: \"a/b \\\"é\\n\"\nnumbers:\n- 1\n- -2\npair:\n  - 3\n  - 18446744073709551615\n\
                     yes: true\nother:\n- - x\n  - y: z\nnone: ~\nsome: 'null'\n";
        assert_eq!(read::<Entry>(json).unwrap(), expected);
        assert_eq!(read::<Entry>(block).unwrap(), expected);
        assert_eq!(read::<BTreeMap<String, String>>("1: 2\ntrue: no\n").unwrap()["true"], "no");
    }

    #[test]
    fn what_is_not_a_bounded_document_is_refused_with_its_position() {
        for (text, said) in [
            ("", "no document"),
            ("a: 1\n---\nb: 1\n", "more than one document"),
            ("[&a 1, *a]", "aliases are not supported at line 1 column 8"),
            ("[1, [2, 3]", "line 1 column"),
            ("a: b: c", "line 1 column"),
            ("[[[[[[]]]]]]", "more than 5 levels of nesting at line 1 column 6"),
        ] {
            let refused = read::<IgnoredAny>(text).map(|_| ()).expect_err(text);
            assert!(refused.contains(said), "{text}: {refused}");
        }
        let long = format!("[{}]", "1,".repeat(100));
        assert!(read::<Vec<u64>>(&long).unwrap_err().contains("more than 100 values"));
        assert!(read::<IgnoredAny>(&long).map(|_| ()).unwrap_err().contains("more than 100 values"));
        assert!(read::<[u64; 1]>("[1, 2]").unwrap_err().contains("line 1 column"));
        assert!(read::<Vec<Vec<Vec<Vec<Vec<Vec<u64>>>>>>>("[[[[[[1]]]]]]").unwrap_err().contains("levels"));
        assert!(read::<Vec<u64>>("[1,\n x]").unwrap_err().contains("invalid type: string \"x\""));
    }
}
