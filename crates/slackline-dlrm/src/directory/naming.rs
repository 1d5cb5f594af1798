//! Mapping the tensor names of a checkpoint to those of the reference DLRM, which are also ours.
//!
//! TorchRec's DLRM has other names, and wrappers of modules insert theirs: see [`RULES`] and [`WRAPPERS`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use slackline_checkpoint::TensorInfo;

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

/// Parts of names that wrappers of modules insert: `DataParallel` and similar, `DistributedModelParallel`, FSDP, `compile`.
const WRAPPERS: [&str; 4] = ["module", "_dmp_wrapped_module", "_fsdp_wrapped_module", "_orig_mod"];

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
    /// The checkpoint's names, by ours.
    theirs: BTreeMap<String, String>,
}

impl Names {
    /// Detects the naming scheme. `file` is for errors.
    pub(super) fn of(found: &BTreeMap<String, TensorInfo>, file: &Path) -> Result<Self> {
        let plain: BTreeMap<&str, String> = found.keys().map(|name| (name.as_str(), unwrapped(name))).collect();
        let torchrec = |name: &String| PARTS.iter().any(|part| name.starts_with(part));
        if !plain.values().any(torchrec) {
            let theirs = found.keys().map(|name| (name.clone(), name.clone())).collect();
            return Ok(Names { naming: Naming::Reference, theirs });
        }
        if let Some((name, _)) = plain.iter().find(|(_, plain)| plain.starts_with("inter_arch.")) {
            let what =
                if name.contains("crossnet") { "the cross network of DLRM_DCN" } else { "a learned interaction" };
            return Err(DlrmError::UnsupportedModel {
                file: file.to_owned(),
                tensor: (*name).to_owned(),
                what: format!("{what} (TorchRec)"),
            });
        }
        let top = |name: &String| ours(name).filter(|ours| ours.starts_with("top_l.")).is_some();
        let hidden = plain.values().filter(|name| top(name) && name.ends_with(".weight")).count();
        let mut theirs = BTreeMap::new();
        for (name, plain) in &plain {
            let ours = match plain.strip_prefix(LAST) {
                Some(what) => format!("top_l.{}.{what}", 2 * hidden),
                None => ours(plain).unwrap_or_else(|| (*name).to_owned()),
            };
            if let Some(other) = theirs.insert(ours, (*name).to_owned()) {
                return Err(DlrmError::TwoNames { file: file.to_owned(), first: other, second: (*name).to_owned() });
            }
        }
        Ok(Names { naming: Naming::TorchRec, theirs })
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
        if self.naming == Naming::Reference {
            return ours.to_owned();
        }
        let mut parts = ours.splitn(3, '.');
        let (Some(list), Some(number), Some(what)) = (parts.next(), parts.next(), parts.next()) else {
            return ours.to_owned();
        };
        match (RULES.iter().find(|rule| rule.1 == list), number.parse::<usize>()) {
            (Some((theirs, _, factor)), Ok(number)) => {
                format!("{}{what}", theirs.replace("{}", &(number / factor).to_string()))
            }
            _ => ours.to_owned(),
        }
    }
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

fn unwrapped(name: &str) -> String {
    let plain: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let plain = plain.join(".");
    match plain.strip_prefix("model.") {
        Some(inner) if PARTS.iter().any(|part| inner.starts_with(part)) => inner.to_owned(),
        _ => plain,
    }
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
        Names::of(&of.iter().map(|name| ((*name).to_owned(), info.clone())).collect(), Path::new("file"))
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
