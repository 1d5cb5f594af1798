//! What a configuration accepts, computes and refuses.

use super::*;

fn kaggle() -> Arguments {
    Arguments {
        sparse_feature_size: 16,
        embedding_size: vec![100; 26],
        mlp_bot: vec![13, 512, 256, 64, 16],
        mlp_top: vec![512, 256, 1],
        ..Arguments::default()
    }
}

/// The argument that is blamed and the words of the complaint.
fn complaint(arguments: Arguments) -> String {
    ModelConfig::new(arguments).expect_err("must be refused").to_string()
}

#[test]
fn the_computed_width_may_be_left_out_or_given() {
    let without = ModelConfig::new(kaggle()).unwrap();
    let with = ModelConfig::new(Arguments { mlp_top: vec![367, 512, 256, 1], ..kaggle() }).unwrap();
    assert_eq!(without.top(), [367, 512, 256, 1]);
    assert_eq!(with.top(), without.top());
    assert_eq!(without.sigmoid_top(), Some(2), "the last layer");
    assert_eq!(without.sigmoid_bottom(), None);
    assert_eq!(without.clamp(), None);
}

#[test]
fn widths_of_all_three_interactions() {
    let width = |op, itself| {
        let arguments = Arguments { interaction_op: op, interaction_itself: itself, ..kaggle() };
        ModelConfig::new(arguments).unwrap().interaction_width()
    };
    assert_eq!(width(InteractionOp::Dot, false), 16 + 27 * 26 / 2);
    assert_eq!(width(InteractionOp::Dot, true), 16 + 27 * 28 / 2);
    assert_eq!(width(InteractionOp::Cat, false), 16 * 27);
}

#[test]
fn shapes_of_a_checkpoint_settle_a_hidden_layer_as_wide_as_the_interaction() {
    let mut config = ModelConfig::new(Arguments { mlp_top: vec![367, 1], ..kaggle() }).unwrap();
    assert_eq!(config.top(), [367, 1]);
    config.settle_top(&[[1, 367]]).unwrap();
    assert_eq!(config.top(), [367, 1], "the checkpoint agrees, nothing to settle");
    config.settle_top(&[[367, 367], [1, 367]]).unwrap();
    assert_eq!(config.top(), [367, 367, 1]);
    assert_eq!(config.sigmoid_top(), Some(1), "the default sigmoid moves with the last layer");
    let again = ModelConfig::from_json(&config.to_json().to_string()).unwrap().config;
    assert_eq!(again.top(), config.top());
    config.settle_top(&[[9, 367], [1, 9]]).unwrap();
    assert_eq!(config.top(), [367, 367, 1], "shapes that fit neither reading change nothing");
}

#[test]
fn every_disagreement_names_its_argument_and_numbers() {
    let cases = [
        (Arguments { sparse_feature_size: 32, ..kaggle() }, ["arch_mlp_bot", "16", "32"]),
        (Arguments { sparse_feature_size: 0, ..kaggle() }, ["arch_sparse_feature_size", "at least 1", ""]),
        (Arguments { embedding_size: vec![], ..kaggle() }, ["arch_embedding_size", "no table", ""]),
        (Arguments { embedding_size: vec![5, 0], ..kaggle() }, ["arch_embedding_size", "number 1", "0"]),
        (Arguments { embedding_size: vec![5, usize::MAX / 8], ..kaggle() }, ["arch_embedding_size", "table 1", "16"]),
        (Arguments { mlp_bot: vec![16], ..kaggle() }, ["arch_mlp_bot", "at least 2", "1"]),
        (Arguments { mlp_bot: vec![13, 0, 16], ..kaggle() }, ["arch_mlp_bot", "number 1", "0"]),
        (Arguments { mlp_bot: vec![13, 1 << 39, 16], ..kaggle() }, ["arch_mlp_bot", "too large", "549755813888"]),
        (Arguments { mlp_top: vec![], ..kaggle() }, ["arch_mlp_top", "no layer", "367"]),
        (Arguments { mlp_top: vec![512, 2], ..kaggle() }, ["arch_mlp_top", "must be 1", "2"]),
        (Arguments { mlp_top: vec![367], ..kaggle() }, ["arch_mlp_top", "no layer", "367"]),
        (Arguments { sigmoid_top: Some(3), ..kaggle() }, ["sigmoid_top", "3", "0 to 2"]),
        (Arguments { sigmoid_bot: Some(-2), ..kaggle() }, ["sigmoid_bot", "-2", "0 to 3"]),
        (Arguments { loss_threshold: f64::NAN, ..kaggle() }, ["loss_threshold", "NaN", "finite"]),
    ];
    for (arguments, words) in cases {
        let text = complaint(arguments);
        assert!(text.starts_with(words[0]), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text} lacks one of {words:?}");
    }
}

#[test]
fn lists_may_be_strings_with_dashes() {
    let list = r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": [14, 5, 3], "arch_mlp_bot": [3, 4],
                   "arch_mlp_top": [5, 1], "arch_interaction_op": "cat"}"#;
    let text = r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "14-5-3", "arch_mlp_bot": "3-4",
                   "arch_mlp_top": "5-1", "arch_interaction_op": "cat"}"#;
    let (list, text) = (ModelConfig::from_json(list).unwrap(), ModelConfig::from_json(text).unwrap());
    assert_eq!(list, text);
    assert_eq!(list.config.top(), [16, 5, 1]);
}

fn parse_with(key: &str, value: &str) -> Result<ParsedConfig> {
    let mut object = ModelConfig::new(kaggle()).unwrap().to_json();
    object[key] = serde_json::from_str(value).unwrap();
    ModelConfig::from_json(&object.to_string())
}

#[test]
fn a_malformed_argument_is_named_with_its_value() {
    let cases = [
        ("arch_embedding_size", r#""14-x-3""#, "\"x\""),
        ("arch_embedding_size", r#""14--3""#, "\"\""),
        ("arch_embedding_size", "[1, -2]", "-2"),
        ("arch_embedding_size", "7", "7"),
        ("arch_sparse_feature_size", "16.5", "16.5"),
        ("arch_interaction_op", r#""sum""#, "sum"),
        ("arch_interaction_itself", r#""yes""#, "yes"),
        ("sigmoid_top", "0.5", "0.5"),
        ("loss_threshold", r#""0""#, "\"0\""),
        ("arch_mlp_top", "null", "missing"),
        ("qr_flag", "\"yes\"", "not true or false"),
        ("weighted_pooling", r#""learned""#, "slackline import"),
        ("weighted_pooling", r#""other""#, "neither"),
        ("quantize_emb_with_bit", "8", "not supported"),
        ("activation_function", r#""tanh""#, "not supported"),
        ("interaction_type", r#""dcn""#, "not supported"),
        ("arch_project_size", "4", "not supported"),
    ];
    for (key, value, word) in cases {
        let text = parse_with(key, value).expect_err(key).to_string();
        assert!(text.starts_with(key) && text.contains(word), "{text}");
    }
    assert!(matches!(ModelConfig::from_json("[1]"), Err(DlrmError::Json(_))));
    let twice = ModelConfig::from_json(r#"{"arch_mlp_bot": "4-2", "arch_mlp_bot": "4-3-2"}"#).unwrap_err().to_string();
    assert!(twice.contains("\"arch_mlp_bot\" stands twice"), "{twice}");
    let marked = "\u{feff}{\"arch_sparse_feature_size\": 2, \"arch_embedding_size\": [4], \"arch_mlp_bot\": [3, 2], \"arch_mlp_top\": [1]}";
    assert_eq!(ModelConfig::from_json(marked).unwrap().config.rows(), [4]);
}

#[test]
fn foreign_keys_are_listed_and_switched_off_options_are_harmless() {
    assert_eq!(parse_with("mini_batch_size", "128").unwrap().unused, ["mini_batch_size"]);
    assert_eq!(parse_with("qr_flag", "false").unwrap().unused, Vec::<String>::new());
    assert_eq!(parse_with("weighted_pooling", "null").unwrap().unused, Vec::<String>::new());
}

#[test]
fn the_threshold_clamps_only_between_zero_and_one() {
    let clamp = |t| ModelConfig::new(Arguments { loss_threshold: t, ..kaggle() }).unwrap().clamp();
    assert_eq!(clamp(0.0), None);
    assert_eq!(clamp(1.0), None);
    assert_eq!(clamp(-3.0), None);
    assert_eq!(clamp(1e-7), Some((1e-7, 1.0 - 1e-7)));
}

#[test]
fn what_is_written_reads_back_the_same() {
    let arguments = Arguments {
        interaction_itself: true,
        sigmoid_bot: Some(1),
        sigmoid_top: Some(-1),
        loss_threshold: 0.01,
        ..kaggle()
    };
    let config = ModelConfig::new(arguments).unwrap();
    let json = config.to_json();
    let again = ModelConfig::from_json(&json.to_string()).unwrap();
    assert_eq!(again.config.to_json(), json);
    assert_eq!(again.config.sigmoid_bottom(), Some(1));
    assert_eq!(again.config.sigmoid_top(), None);
    assert!(again.unused.is_empty());
}

#[test]
fn dense_values_counts_weights_and_biases() {
    let config = ModelConfig::new(Arguments { mlp_bot: vec![3, 16], mlp_top: vec![2, 1], ..kaggle() }).unwrap();
    assert_eq!(config.dense_values(), (3 * 16 + 16) + (367 * 2 + 2) + (2 + 1));
}

#[test]
fn preprocessing_is_kept_and_its_version_is_known() {
    let mut config = ModelConfig::new(kaggle()).unwrap();
    assert!(config.to_json().get("preprocessing").is_none());
    config.record_preprocessing("torchrec".parse().unwrap()).unwrap();
    let again = ModelConfig::from_json(&config.to_json().to_string()).unwrap();
    assert_eq!((again.config.preprocessing(), again.unused), (config.preprocessing(), Vec::new()));
    let refused = config.record_preprocessing("dlrm".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(refused, "preprocessing: is ln3,modulo-int32 here, but ln1p,dictionary was asked for");
    for (value, words) in [
        (r#""torchrec""#, "is not an object"),
        (r#"{"dense": "ln3", "sparse": "none"}"#, "version null is not known, only 1"),
        (r#"{"version": 2, "dense": "ln3", "sparse": "none"}"#, "version 2 is not known"),
        (r#"{"version": 1, "dense": "ln3"}"#, "sparse is missing"),
        (r#"{"version": 1, "dense": "log", "sparse": "none"}"#, "ln1p, ln3, none"),
        (r#"{"version": 1, "dense": "ln3", "sparse": "none", "hash": 1}"#, "\"hash\" is not known"),
    ] {
        let mut object = ModelConfig::new(kaggle()).unwrap().to_json();
        object["preprocessing"] = serde_json::from_str(value).unwrap();
        let refused = ModelConfig::from_json(&object.to_string()).unwrap_err().to_string();
        assert!(refused.starts_with("preprocessing: ") && refused.contains(words), "{refused}");
    }
}

#[test]
fn a_byte_order_mark_is_passed_over_and_utf_16_is_named() {
    let text = ModelConfig::new(kaggle()).unwrap().to_json().to_string();
    assert!(ModelConfig::from_bytes(&[b"\xef\xbb\xbf", text.as_bytes()].concat()).is_ok());
    assert!(ModelConfig::from_json(&format!("\u{feff}{text}")).is_ok());
    let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [utf_16.clone(), [b"\xff\xfe", &utf_16[..]].concat()] {
        assert!(ModelConfig::from_bytes(&bytes).unwrap_err().to_string().contains("UTF-16"));
    }
}
