//! Mapping the tensor names of a checkpoint to those of the reference DLRM, which are also ours.
//!
//! TorchRec's DLRM has other names, and wrappers of modules insert theirs: see [`RULES`] and [`WRAPPERS`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use slackline_checkpoint::TensorInfo;

use super::harmless::is_harmless;
use crate::{DlrmError, Result};

/// The naming scheme of a checkpoint's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// The reference DLRM's: `emb_l.0.weight`, `bot_l.0.weight`, `top_l.0.weight`.
    Reference,
    /// TorchRec's DLRM: `sparse_arch.embedding_bag_collection.embedding_bags.t_cat_0.weight`, `dense_arch…`, `over_arch…`.
    TorchRec,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Naming::Reference => "reference DLRM",
            Naming::TorchRec => "TorchRec DLRM",
        })
    }
}

/// Parts of names that wrappers of modules insert: `DataParallel` and similar, `DistributedModelParallel`, FSDP (three
/// generations), `torch.compile`, activation checkpointing, Lightning Fabric.
const WRAPPERS: [&str; 7] = [
    "module",
    "_dmp_wrapped_module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_orig_mod",
    "_checkpoint_wrapped_module",
    "_forward_module",
];

/// The lists of the reference's modules and parameters. A number follows.
const LISTS: [&str; 4] = ["emb_l", "bot_l", "top_l", POOLING];

/// The reference's list of learned pooling weights, one a row, which has a tensor for each table.
pub(super) const POOLING: &str = "v_W_l";

/// The parts of TorchRec's DLRM. `DLRMTrain` holds it as its `model`.
const PARTS: [&str; 4] = ["sparse_arch.", "dense_arch.", "inter_arch.", "over_arch."];

/// TorchRec's names with a number at `{}`, our names for them, and the factor from their number to ours.
const RULES: [(&str, &str, usize); 3] = [
    ("sparse_arch.embedding_bag_collection.embedding_bags.t_cat_{}.", "emb_l", 1),
    ("dense_arch.model._mlp.{}._linear.", "bot_l", 2),
    ("over_arch.model.0._mlp.{}._linear.", "top_l", 2),
];

/// The last layer of TorchRec's top MLP. It has no activation and outputs logits.
const LAST: &str = "over_arch.model.1.";

/// The tensors of a checkpoint, by our names.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) naming: Naming,
    /// What the names of the model begin with beside wrappers, with a dot at the end: that of a dict or a module around it.
    prefix: String,
    /// The checkpoint's names, by ours.
    theirs: BTreeMap<String, String>,
}

/// A name without wrappers, cut before the part that names a list or a part of the model.
struct Cut {
    /// Ends with a dot or is empty.
    prefix: String,
    /// Empty if no part of the name belongs to a model.
    rest: String,
}

impl Names {
    /// Detects the naming scheme, and the prefix that all names of the model have. What was `skipped`, and `file`, are for
    /// errors.
    pub(super) fn of(found: &BTreeMap<String, TensorInfo>, skipped: &[String], file: &Path) -> Result<Self> {
        let cuts: Vec<(&str, Cut)> = found.keys().map(|name| (name.as_str(), cut(name))).collect();
        let unsupported = |tensor: &str, what: &str| {
            let (file, tensor, what) = (file.to_owned(), tensor.to_owned(), what.to_owned());
            Err(DlrmError::UnsupportedModel { file, tensor, what })
        };
        if let Some(flat) =
            found.keys().find(|name| name.split('.').any(|part| part.trim_start_matches('_') == "flat_param"))
        {
            return unsupported(
                flat,
                "a model whose parameters FSDP has flattened (save it with StateDictType.FULL_STATE_DICT)",
            );
        }
        let Some(prefix) = model_prefix(&cuts, file)? else {
            let hint = shown(found.keys()) + &objects(skipped);
            return Err(DlrmError::UnknownNames { file: file.to_owned(), hint });
        };
        let is_model = |cut: &Cut| !cut.rest.is_empty() && same_model(&cut.prefix, &prefix);
        let of_model = || cuts.iter().filter(|(_, cut)| is_model(cut));
        let naming = match of_model().any(|(_, cut)| is_part(&cut.rest)) {
            true => Naming::TorchRec,
            false => Naming::Reference,
        };
        for (name, Cut { rest, .. }) in of_model() {
            if rest.starts_with("inter_arch.") {
                let cross = rest.contains("crossnet");
                let what = if cross { "the cross network of DLRM_DCN" } else { "a learned interaction" };
                return unsupported(name, &format!("{what} (TorchRec)"));
            }
            if rest.starts_with("sparse_arch.") && rest.ends_with(".weight") && ours(rest).is_none() {
                return unsupported(name, "a table of TorchRec that is not named t_cat_0, t_cat_1 and so on");
            }
        }
        let top = |rest: &str| ours(rest).is_some_and(|ours| ours.starts_with("top_l.")) && rest.ends_with(".weight");
        let hidden = of_model().filter(|(_, cut)| top(&cut.rest)).count();
        let mut theirs = BTreeMap::new();
        for (name, cut) in &cuts {
            let ours = match (is_model(cut), cut.rest.strip_prefix(LAST)) {
                (false, _) => (*name).to_owned(),
                (true, Some(what)) => format!("top_l.{}.{what}", 2 * hidden),
                (true, None) => ours(&cut.rest).unwrap_or_else(|| cut.rest.clone()),
            };
            if let Some(other) = theirs.insert(ours, (*name).to_owned()) {
                return Err(DlrmError::TwoNames { file: file.to_owned(), first: other, second: (*name).to_owned() });
            }
        }
        Ok(Names { naming, prefix, theirs })
    }

    /// The checkpoint's name of a tensor, by ours.
    pub(super) fn theirs(&self, ours: &str) -> Option<&str> {
        self.theirs.get(ours).map(String::as_str)
    }

    /// Our name and the checkpoint's name of every tensor.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.theirs.iter().map(|(ours, theirs)| (ours.as_str(), theirs.as_str()))
    }

    /// The name that a missing tensor would have in the checkpoint.
    pub(super) fn expected(&self, ours: &str) -> String {
        let plain = || format!("{}{ours}", self.prefix);
        if self.naming == Naming::Reference {
            return plain();
        }
        let mut parts = ours.splitn(3, '.');
        let (Some(list), Some(number), Some(what)) = (parts.next(), parts.next(), parts.next()) else {
            return plain();
        };
        match (RULES.iter().find(|rule| rule.1 == list), number.parse::<usize>()) {
            (Some((theirs, _, factor)), Ok(number)) => {
                format!("{}{}{what}", self.prefix, theirs.replace("{}", &(number / factor).to_string()))
            }
            _ => plain(),
        }
    }

    /// What a message about the missing tensor `ours` says of what is there: an object of that name among `skipped`, which
    /// cannot be read, or the nearest names.
    pub(super) fn instead_of(&self, ours: &str, skipped: &[String]) -> String {
        let wanted = self.expected(ours);
        let is_it = |entry: &&String| {
            entry.split_once(" (").is_some_and(|(name, _)| {
                let cut = cut(name);
                name == wanted || format!("{}{}", cut.prefix, cut.rest) == wanted || cut.rest == ours
            })
        };
        if let Some(entry) = skipped.iter().find(is_it) {
            return format!(
                "; the file has {entry}, which is not a plain tensor: save it as one (dense, of floats, not wrapped)"
            );
        }
        let mut near: Vec<(usize, &str)> =
            self.theirs.values().map(|name| (distance(&wanted, name), name.as_str())).collect();
        near.sort_unstable();
        let near = near.iter().take(3).map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        format!("; the nearest names in the file: {near}{}", objects(skipped))
    }
}

/// The prefix of the model: the one whose tensors have the names of a model. `None` if there is none.
fn model_prefix(cuts: &[(&str, Cut)], file: &Path) -> Result<Option<String>> {
    let mut kinds: BTreeMap<&str, [bool; 3]> = BTreeMap::new();
    for (_, Cut { prefix, rest }) in cuts {
        let known = ours(rest).unwrap_or_else(|| rest.clone());
        let kind = match &known {
            name if name.starts_with(LAST) => 2,
            name => match LISTS.iter().position(|list| name.split('.').next() == Some(list)) {
                Some(kind @ 0..3) => kind,
                _ => continue,
            },
        };
        if known.ends_with(".weight") || known.ends_with(".bias") || known.ends_with(".weight_q") {
            kinds.entry(prefix).or_default()[kind] = true;
        }
    }
    // A model without a prefix, or in a module's `model`, has copies (averages, say) beside it that have one.
    if let Some(plain) = kinds.keys().find(|prefix| same_model(prefix, "")) {
        return Ok(Some((*plain).to_owned()));
    }
    let whole: Vec<&str> =
        kinds.iter().filter(|(_, has)| has.iter().all(|has| *has)).map(|(prefix, _)| *prefix).collect();
    let mut candidates = if whole.is_empty() { kinds.into_keys().collect() } else { whole };
    if candidates.iter().any(|prefix| !is_harmless(prefix)) {
        candidates.retain(|prefix| !is_harmless(prefix));
    }
    match candidates[..] {
        [] => Ok(None),
        [prefix] => Ok(Some(prefix.to_owned())),
        _ => {
            let prefixes = candidates.iter().map(|prefix| format!("{prefix}…")).collect();
            Err(DlrmError::SeveralModels { file: file.to_owned(), prefixes })
        }
    }
}

/// Whether two prefixes are of one model: `DLRMTrain` and Lightning hold it as their `model`.
fn same_model(one: &str, other: &str) -> bool {
    let plain = |prefix: &str| prefix.split_terminator('.').all(|part| part == "model");
    one == other || plain(one) && plain(other)
}

fn is_part(rest: &str) -> bool {
    PARTS.iter().any(|part| rest.starts_with(part))
}

fn cut(name: &str) -> Cut {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let begins = |at: usize| {
        let next = parts.get(at + 1);
        let numbered = next.is_some_and(|next| !next.is_empty() && next.bytes().all(|byte| byte.is_ascii_digit()));
        LISTS.contains(&parts[at]) && numbered
            || next.is_some() && PARTS.iter().any(|part| part.trim_end_matches('.') == parts[at])
    };
    match (0..parts.len()).find(|at| begins(*at)) {
        Some(at) => {
            Cut { prefix: parts[..at].iter().map(|part| format!("{part}.")).collect(), rest: parts[at..].join(".") }
        }
        None => Cut { prefix: String::new(), rest: String::new() },
    }
}

/// The first of the objects that only Python can read, after a semicolon; empty if there are none.
fn objects(skipped: &[String]) -> String {
    let objects: Vec<&str> = skipped.iter().filter(|entry| entry.ends_with(')')).take(3).map(String::as_str).collect();
    if objects.is_empty() {
        return String::new();
    }
    format!("; not read, since that needs code (save `model.state_dict()`, not the model): {}", objects.join(", "))
}

/// The first of the names, after a semicolon.
fn shown<'n>(names: impl ExactSizeIterator<Item = &'n String>) -> String {
    const MOST: usize = 5;
    let (count, names) = (names.len(), names.take(MOST).map(String::as_str).collect::<Vec<_>>());
    let more = if count > MOST { format!(" and {} more", count - MOST) } else { String::new() };
    format!("; the file has {}{more}", names.join(", "))
}

/// The letters to be inserted, removed or replaced to make one name of another (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    // Long names are not worth the time: the square of their length.
    const LONGEST: usize = 200;
    let (one, other): (Vec<char>, Vec<char>) =
        (one.chars().take(LONGEST).collect(), other.chars().take(LONGEST).collect());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = before + usize::from(a != b);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j].min(row[j + 1]) + 1);
        }
    }
    row[other.len()]
}

/// Our name for one of TorchRec's.
fn ours(name: &str) -> Option<String> {
    RULES.iter().find_map(|(theirs, ours, factor)| {
        let (before, after) = theirs.split_once("{}")?;
        let (number, what) = name.strip_prefix(before)?.split_once(after)?;
        let number = number.parse::<usize>().ok()?.checked_mul(*factor)?;
        Some(format!("{ours}.{number}.{what}"))
    })
}

/// For each input of our first top layer, the number of that input in TorchRec.
///
/// Both start with the bottom output (`dim` values), followed by one product for each pair of vectors. We take the lower
/// triangle by rows, (1,0), (2,0), (2,1), (3,0), …; TorchRec takes the upper one, (0,1), (0,2), …, (1,2), …. A product has
/// the same bits either way, so reordered weights give the same model, except for the order of the layer's sums.
pub(super) fn interaction_order(dim: usize, tables: usize) -> Vec<usize> {
    let vectors = tables + 1;
    let upper = |low: usize, high: usize| low * (2 * vectors - low - 1) / 2 + (high - low - 1);
    let products = (1..vectors).flat_map(|i| (0..i).map(move |j| dim + upper(j, i)));
    (0..dim).chain(products).collect()
}

#[cfg(test)]
mod tests {
    use slackline_checkpoint::DType;

    use super::*;

    fn names(of: &[&str]) -> Result<Names> {
        let info = TensorInfo { dtype: DType::F32, shape: vec![1], bytes: 4 };
        let found = of.iter().map(|name| ((*name).to_owned(), info.clone())).collect();
        Names::of(&found, &["model (dlrm.DLRM_Net)".to_owned()], Path::new("file"))
    }

    #[test]
    fn wrappers_do_not_matter_wherever_they_stand() {
        for prefix in ["", "model.", "module.model.", "_dmp_wrapped_module.module.model.", "_orig_mod."] {
            let table = format!("{prefix}sparse_arch.embedding_bag_collection.embedding_bags.t_cat_7.weight");
            let bottom = format!("{prefix}dense_arch.module.model._mlp.1._linear.bias");
            let top = format!("{prefix}over_arch.model.0._mlp.0._linear.weight");
            let last = format!("{prefix}over_arch.model.1.weight");
            let names = names(&[&table, &bottom, &top, &last, "step"]).unwrap();
            assert_eq!(names.naming, Naming::TorchRec);
            let found =
                ["emb_l.7.weight", "bot_l.2.bias", "top_l.0.weight", "top_l.2.weight", "step", "emb_l.8.weight"];
            let found = found.map(|ours| names.theirs(ours));
            assert_eq!(found, [Some(&*table), Some(&*bottom), Some(&*top), Some(&*last), Some("step"), None]);
        }
    }

    #[test]
    fn two_tensors_of_one_meaning_and_models_that_are_not_known_are_refused() {
        let table = "sparse_arch.embedding_bag_collection.embedding_bags.t_cat_0.weight";
        let two = names(&[table, &format!("model.{table}")]).unwrap_err();
        assert!(matches!(two, DlrmError::TwoNames { .. }), "{two}");
        let cross = names(&[table, "model.inter_arch.crossnet.W_kernels.0"]).unwrap_err().to_string();
        assert!(cross.contains("inter_arch.crossnet.W_kernels.0") && cross.contains("DLRM_DCN"), "{cross}");
        let product = "sparse_arch.embedding_bag_collection.embedding_bags.product.weight";
        let other = names(&[product, "dense_arch.model._mlp.0._linear.bias"]).unwrap_err();
        assert!(other.to_string().contains("product.weight: a table of TorchRec"), "{other}");
        let flat = names(&["_fsdp_wrapped_module._flat_param", "emb_l.0.weight"]).unwrap_err().to_string();
        assert!(flat.contains("FULL_STATE_DICT"), "{flat}");
    }

    #[test]
    fn wrappers_are_taken_off_the_names_of_the_reference_wherever_they_stand() {
        let ours = ["emb_l.3.weight", "bot_l.0.bias", "top_l.4.weight", "v_W_l.3"];
        let forms: [(&str, [&str; 4]); 7] = [
            ("", ["emb_l.3.weight", "bot_l.0.bias", "top_l.4.weight", "v_W_l.3"]),
            ("_orig_mod.module.", ours),
            ("module._orig_mod.model.", ours),
            ("_forward_module.model._fsdp_wrapped_module.", ours),
            ("", ["emb_l.module.3.weight", "bot_l.0._orig_mod.bias", "top_l._fsdp_wrapped_module.4.weight", "v_W_l.3"]),
            ("dlrm.", ours),
            ("_orig_mod.net.core.", ["emb_l.3._checkpoint_wrapped_module.weight", ours[1], ours[2], ours[3]]),
        ];
        for (prefix, form) in forms {
            let theirs = form.map(|name| format!("{prefix}{name}"));
            let names = names(&theirs.each_ref().map(String::as_str)).unwrap();
            assert_eq!(names.naming, Naming::Reference);
            assert_eq!(ours.map(|ours| names.theirs(ours)), theirs.each_ref().map(|name| Some(name.as_str())));
        }
        let two = names(&["_orig_mod.emb_l.0.weight", "module.emb_l.0.weight"]).unwrap_err().to_string();
        assert!(two.contains("_orig_mod.emb_l.0.weight") && two.contains("module.emb_l.0.weight"), "{two}");
    }

    #[test]
    fn of_several_models_none_is_chosen_but_one_without_a_prefix() {
        let model =
            |prefix: &str| ["emb_l.0.weight", "bot_l.0.weight", "top_l.0.weight"].map(|name| format!("{prefix}{name}"));
        let both = |one: &str, other: &str| {
            let all = [model(one), model(other)].concat();
            names(&all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let refused = both("online.", "target.").unwrap_err().to_string();
        assert!(refused.contains("target.…") && refused.contains("online.…"), "{refused}");
        assert_eq!(both("online.", "ema.").unwrap().theirs("emb_l.0.weight"), Some("online.emb_l.0.weight"));
        assert_eq!(both("ema.", "").unwrap().theirs("emb_l.0.weight"), Some("emb_l.0.weight"));
        // A single state of an optimizer is no model.
        let with_state = [&model("net.")[..], &["optimizer.emb_l.0.weight".to_owned()]].concat();
        let found = names(&with_state.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert_eq!(found.theirs("emb_l.0.weight"), Some("net.emb_l.0.weight"));
        assert_eq!(found.expected("emb_l.1.weight"), "net.emb_l.1.weight");
    }

    #[test]
    fn names_that_are_not_found_are_answered_with_those_that_are_there() {
        let nothing = names(&["tables.0.weight", "mlp.0.weight"]).unwrap_err().to_string();
        assert!(nothing.contains("the file has mlp.0.weight, tables.0.weight"), "{nothing}");
        assert!(nothing.contains("model (dlrm.DLRM_Net)"), "{nothing}");
        let found = names(&["emb_l.0.weight", "bot_l.0.wieght", "step"]).unwrap();
        let near = found.instead_of("bot_l.0.weight", &[]);
        assert!(near.starts_with("; the nearest names in the file: bot_l.0.wieght"), "{near}");
        let object = found.instead_of("emb_l.1.weight", &["emb_l.1.weight (torch._utils._rebuild_qtensor)".to_owned()]);
        assert!(object.contains("_rebuild_qtensor") && object.contains("not a plain tensor"), "{object}");
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn what_is_missing_is_named_as_they_would() {
        let names = names(&["dense_arch.model._mlp.0._linear.bias"]).unwrap();
        assert_eq!(names.expected("bot_l.2.weight"), "dense_arch.model._mlp.1._linear.weight");
        let table = "sparse_arch.embedding_bag_collection.embedding_bags.t_cat_3.weight";
        assert_eq!(names.expected("emb_l.3.weight"), table);
    }

    #[test]
    fn every_product_is_taken_once() {
        // Pairs of 4 vectors: (0,1) (0,2) (0,3) (1,2) (1,3) (2,3) in TorchRec's order.
        assert_eq!(interaction_order(2, 3), [0, 1, 2, 3, 5, 4, 6, 7]);
        let mut order = interaction_order(5, 26);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..5 + 27 * 26 / 2));
    }
}
