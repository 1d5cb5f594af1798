//! Reading a configuration from JSON and writing it back.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use slackline_data::{Preprocessing, utf8};

use super::{Arguments, Compression, InteractionOp, MixedDimensions, ModelConfig, QuotientRemainder, wrong};
use crate::{DlrmError, Result};

/// A configuration, and the keys that were not used.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedConfig {
    /// The checked configuration.
    pub config: ModelConfig,
    /// Keys that have no effect here, such as training options, in alphabetical order.
    pub unused: Vec<String>,
}

/// Options of the reference that this crate does not support, and the values that switch them off.
const FOREIGN: [(&str, &[&str]); 5] = [
    ("quantize_mlp_with_bit", &["32", "null"]),
    ("quantize_emb_with_bit", &["32", "null"]),
    ("arch_project_size", &["0", "null"]),
    ("activation_function", &["\"relu\"", "null"]),
    ("interaction_type", &["\"original\"", "null"]),
];

impl ModelConfig {
    /// Reads a JSON object of the reference's arguments.
    ///
    /// | key | value | when missing |
    /// |---|---|---|
    /// | `arch_sparse_feature_size` | width of the embedding rows | an error |
    /// | `arch_embedding_size` | rows of each table: a list, or `"1460-583-10131227"` | an error |
    /// | `arch_mlp_bot` | widths of the bottom MLP, list or string | an error |
    /// | `arch_mlp_top` | widths of the top MLP, with or without the first: see [`new`](Self::new) | an error |
    /// | `arch_interaction_op` | `"dot"` or `"cat"` | `"dot"` |
    /// | `arch_interaction_itself` | whether `dot` multiplies each vector with itself | `false` |
    /// | `sigmoid_bot`, `sigmoid_top` | the layer, from 0, that ends in a sigmoid; -1 for none | none, the last |
    /// | `loss_threshold` | `t` of the clamp to `[t, 1 - t]` | no clamp |
    ///
    /// | `qr_flag` | whether tables of more than `qr_threshold` rows (200) are quotient-remainder tables, by `qr_operation` (`"mult"`, `"add"`, `"concat"`; `"mult"`) and `qr_collisions` (4) | `false` |
    /// | `md_flag` | whether tables of more than `md_threshold` rows (200) have fewer columns: those of the list `md_dims`, or else computed from `md_temperature` (0.3) and `md_round_dims` (`false`); those of a checkpoint have priority | `false` |
    /// | `max_ind_range` | larger tables store only that many rows, and row numbers are taken modulo it; -1 for no limit | none |
    ///
    /// | `preprocessing` | an object of `version` (1), `dense` and `sparse`: what was done to raw inputs in training, by the names of [`DenseTransform`](slackline_data::DenseTransform) and [`SparseTransform`](slackline_data::SparseTransform) | not known |
    ///
    /// Other keys are listed as unused. `weighted_pooling` may be `"fixed"`, whose weights are all 1; with `"learned"` the
    /// rows depend on a checkpoint, so only [`import`](crate::import) accepts it. Options of the reference that would change
    /// the predictions and are not supported (such as `arch_project_size` and `quantize_emb_with_bit`) are refused if they are switched
    /// on.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Json`](crate::DlrmError::Json) if it is not JSON, [`DlrmError::Argument`](crate::DlrmError::Argument)
    /// for an argument that is missing, malformed, unsupported or contradicts another.
    ///
    /// # Examples
    ///
    /// ```
    /// let parsed = slackline_dlrm::ModelConfig::from_json(
    ///     r#"{"arch_sparse_feature_size": 2, "arch_embedding_size": "4-3-2",
    ///         "arch_mlp_bot": "4-3-2", "arch_mlp_top": "4-1", "mini_batch_size": 128}"#,
    /// )?;
    /// assert_eq!(parsed.config.top(), [8, 4, 1]);
    /// assert_eq!(parsed.unused, ["mini_batch_size"]);
    /// # Ok::<(), slackline_dlrm::DlrmError>(())
    /// ```
    pub fn from_json(text: &str) -> Result<ParsedConfig> {
        Self::from_object(arguments(text)?)
    }

    /// The same of the bytes of a file, which may begin with a byte order mark.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json), and [`DlrmError::Text`](crate::DlrmError::Text) for text that is not in UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Result<ParsedConfig> {
        Self::from_json(utf8(bytes).map_err(|what| DlrmError::Text { what })?)
    }

    /// Reads the arguments of a model whose rows are stored, or follow from nothing but the arguments.
    pub(crate) fn from_object(object: Map<String, Value>) -> Result<ParsedConfig> {
        match Self::of_checkpoint(object)? {
            (parsed, false) => Ok(parsed),
            (_, true) => {
                let problem =
                    "\"learned\" needs the weights of a checkpoint, which `slackline import` multiplies into the rows";
                Err(wrong("weighted_pooling", problem.to_owned()))
            }
        }
    }

    /// Reads the arguments of a checkpoint's model, and whether it has learned weights of pooling.
    pub(crate) fn of_checkpoint(mut object: Map<String, Value>) -> Result<(ParsedConfig, bool)> {
        let learned = match optional(&mut object, "weighted_pooling") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::String(how)) if ["", "None", "fixed"].contains(&how.as_str()) => false,
            Some(Value::String(how)) if how == "learned" => true,
            Some(other) => {
                return Err(wrong("weighted_pooling", format!("{other} is neither \"fixed\" nor \"learned\"")));
            }
        };
        for (argument, harmless) in FOREIGN {
            if let Some(value) = object.remove(argument) {
                let text = value.to_string();
                if !harmless.contains(&text.as_str()) {
                    return Err(wrong(argument, format!("{text} is not supported")));
                }
            }
        }
        let arguments = Arguments {
            sparse_feature_size: count(
                "arch_sparse_feature_size",
                &required(&mut object, "arch_sparse_feature_size")?,
            )?,
            embedding_size: list("arch_embedding_size", required(&mut object, "arch_embedding_size")?)?,
            mlp_bot: list("arch_mlp_bot", required(&mut object, "arch_mlp_bot")?)?,
            mlp_top: list("arch_mlp_top", required(&mut object, "arch_mlp_top")?)?,
            interaction_op: match optional(&mut object, "arch_interaction_op") {
                None => InteractionOp::Dot,
                Some(Value::String(name)) if name == "dot" => InteractionOp::Dot,
                Some(Value::String(name)) if name == "cat" => InteractionOp::Cat,
                Some(other) => {
                    return Err(wrong("arch_interaction_op", format!("{other} is neither \"dot\" nor \"cat\"")));
                }
            },
            interaction_itself: match optional(&mut object, "arch_interaction_itself") {
                None => false,
                Some(Value::Bool(itself)) => itself,
                Some(other) => return Err(wrong("arch_interaction_itself", format!("{other} is not true or false"))),
            },
            sigmoid_bot: layer(&mut object, "sigmoid_bot")?,
            sigmoid_top: layer(&mut object, "sigmoid_top")?,
            loss_threshold: match optional(&mut object, "loss_threshold") {
                None => 0.0,
                Some(value) => {
                    value.as_f64().ok_or_else(|| wrong("loss_threshold", format!("{value} is not a number")))?
                }
            },
            compression: compression(&mut object)?,
            preprocessing: optional(&mut object, "preprocessing").map(preprocessing).transpose()?,
        };
        let mut unused: Vec<String> = object.into_iter().map(|(key, _)| key).collect();
        unused.sort_unstable();
        Ok((ParsedConfig { config: Self::new(arguments)?, unused }, learned))
    }

    /// The configuration as a JSON object with all arguments of the reference, so that reading it back gives the same model.
    pub fn to_json(&self) -> Value {
        let layer = |sigmoid: Option<usize>| sigmoid.map_or(-1, |layer| layer as i64);
        let mut json = json!({
            "arch_sparse_feature_size": self.given_dim,
            "arch_embedding_size": self.rows,
            "arch_mlp_bot": self.bottom,
            "arch_mlp_top": self.top,
            "arch_interaction_op": self.op.name(),
            "arch_interaction_itself": self.itself,
            "sigmoid_bot": layer(self.sigmoid_bottom),
            "sigmoid_top": layer(self.sigmoid_top),
            "loss_threshold": self.loss_threshold,
        });
        let Compression { quotient_remainder, mixed_dimensions, max_ind_range } = &self.compression;
        if let Some(qr) = quotient_remainder {
            json["qr_flag"] = true.into();
            json["qr_operation"] = qr.operation.to_string().into();
            json["qr_collisions"] = qr.collisions.into();
            json["qr_threshold"] = qr.threshold.into();
        }
        if let Some(md) = mixed_dimensions {
            json["md_flag"] = true.into();
            json["md_threshold"] = md.threshold.into();
            json["md_temperature"] = md.temperature.into();
            json["md_round_dims"] = md.round.into();
            json["md_dims"] = (0..self.tables()).map(|table| self.stored_columns(table)).collect();
        }
        if let Some(most) = max_ind_range {
            json["max_ind_range"] = (*most).into();
        }
        if let Some(Preprocessing { dense, sparse }) = self.preprocessing {
            json["preprocessing"] =
                json!({ "version": PREPROCESSING_VERSION, "dense": dense.to_string(), "sparse": sparse.to_string() });
        }
        json
    }
}

/// The JSON object of a configuration file. A byte order mark, which some editors write, is no part of it; a key that stands
/// twice is refused, since readers differ in which one they take.
pub(crate) fn arguments(text: &str) -> Result<Map<String, Value>> {
    struct Once(Map<String, Value>);
    struct OnceVisitor;
    impl<'de> Deserialize<'de> for Once {
        fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
            json.deserialize_map(OnceVisitor)
        }
    }
    impl<'de> Visitor<'de> for OnceVisitor {
        type Value = Once;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with the arguments of the reference DLRM")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
            let mut object = Map::new();
            while let Some(key) = map.next_key::<String>()? {
                if object.contains_key(&key) {
                    return Err(A::Error::custom(format!("{key:?} stands twice")));
                }
                object.insert(key, map.next_value()?);
            }
            Ok(Once(object))
        }
    }
    let Once(object) = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))?;
    Ok(object)
}

/// The arguments that compress tables. Those of a flag that is off are ignored, as in the reference.
fn compression(object: &mut Map<String, Value>) -> Result<Compression> {
    let qr_flag = flag(object, "qr_flag")?;
    let md_flag = flag(object, "md_flag")?;
    let defaults = (QuotientRemainder::default(), MixedDimensions::default());
    let operation = optional(object, "qr_operation");
    let collisions = optional(object, "qr_collisions");
    let qr_threshold = optional(object, "qr_threshold");
    let quotient_remainder = qr_flag.then(|| -> Result<_> {
        let operation = match operation {
            None => defaults.0.operation,
            Some(Value::String(name)) => {
                name.parse().map_err(|why| wrong("qr_operation", format!("{name:?} is {why}")))?
            }
            Some(other) => return Err(wrong("qr_operation", format!("{other} is not a string"))),
        };
        let collisions = collisions.map_or(Ok(defaults.0.collisions), |value| count("qr_collisions", &value))?;
        let threshold = qr_threshold.map_or(Ok(defaults.0.threshold), |value| count("qr_threshold", &value))?;
        Ok(QuotientRemainder { operation, collisions, threshold })
    });
    let temperature = optional(object, "md_temperature");
    let md_threshold = optional(object, "md_threshold");
    let round = flag(object, "md_round_dims")?;
    let dims = optional(object, "md_dims");
    let mixed_dimensions = md_flag.then(|| -> Result<_> {
        let temperature = match temperature {
            None => defaults.1.temperature,
            Some(value) => value.as_f64().ok_or_else(|| wrong("md_temperature", format!("{value} is not a number")))?,
        };
        let threshold = md_threshold.map_or(Ok(defaults.1.threshold), |value| count("md_threshold", &value))?;
        let dims = dims.map(|value| list("md_dims", value)).transpose()?;
        Ok(MixedDimensions { threshold, temperature, round, dims })
    });
    let max_ind_range = match optional(object, "max_ind_range") {
        Some(value) if value.as_i64() == Some(-1) || value.as_i64() == Some(0) => None,
        other => other.map(|value| count("max_ind_range", &value)).transpose()?,
    };
    Ok(Compression {
        quotient_remainder: quotient_remainder.transpose()?,
        mixed_dimensions: mixed_dimensions.transpose()?,
        max_ind_range,
    })
}

/// The version of what `preprocessing` holds.
const PREPROCESSING_VERSION: u64 = 1;

fn preprocessing(value: Value) -> Result<Preprocessing> {
    let refuse = |problem: String| wrong("preprocessing", problem);
    let Value::Object(mut object) = value else {
        return Err(refuse(format!("{value} is not an object of version, dense and sparse")));
    };
    let version = object.remove("version").unwrap_or(Value::Null);
    if version != PREPROCESSING_VERSION {
        return Err(refuse(format!("version {version} is not known, only {PREPROCESSING_VERSION}")));
    }
    let mut name = |key: &str| match object.remove(key) {
        Some(Value::String(name)) => Ok(name),
        _ => Err(refuse(format!("{key} is missing or not a string"))),
    };
    let (dense, sparse) = (name("dense")?, name("sparse")?);
    if let Some(key) = object.keys().next() {
        return Err(refuse(format!("{key:?} is not known")));
    }
    let unknown = |error: slackline_data::DataError| refuse(error.to_string());
    Ok(Preprocessing { dense: dense.parse().map_err(unknown)?, sparse: sparse.parse().map_err(unknown)? })
}

fn flag(object: &mut Map<String, Value>, argument: &'static str) -> Result<bool> {
    match optional(object, argument) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(value) if value.as_u64() == Some(0) => Ok(false),
        Some(value) if value.as_u64() == Some(1) => Ok(true),
        Some(other) => Err(wrong(argument, format!("{other} is not true or false"))),
    }
}

/// Takes a key out of the object; `null` counts as missing.
fn optional(object: &mut Map<String, Value>, argument: &'static str) -> Option<Value> {
    object.remove(argument).filter(|value| !value.is_null())
}

fn required(object: &mut Map<String, Value>, argument: &'static str) -> Result<Value> {
    optional(object, argument).ok_or_else(|| wrong(argument, "is missing".into()))
}

fn count(argument: &'static str, value: &Value) -> Result<usize> {
    value
        .as_u64()
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| wrong(argument, format!("{value} is not a whole number of at least 0")))
}

/// A list of numbers, or a string of numbers separated by dashes, as in the reference.
fn list(argument: &'static str, value: Value) -> Result<Vec<usize>> {
    match value {
        Value::Array(items) => items.iter().map(|item| count(argument, item)).collect(),
        Value::String(text) => text
            .split('-')
            .map(|part| {
                let part = part.trim();
                part.parse().map_err(|_| wrong(argument, format!("{part:?} in {text:?} is not a whole number")))
            })
            .collect(),
        other => Err(wrong(argument, format!("{other} is neither a list nor a string such as \"512-256-1\""))),
    }
}

fn layer(object: &mut Map<String, Value>, argument: &'static str) -> Result<Option<i64>> {
    optional(object, argument)
        .map(|value| value.as_i64().ok_or_else(|| wrong(argument, format!("{value} is not the number of a layer"))))
        .transpose()
}
