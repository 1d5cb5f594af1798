//! Whether all ranks compute the same thing: settings and digests, compared before the first batch.

use std::collections::BTreeMap;
use std::fmt;

use slackline_transport::Rank;

/// What one rank has: names of things that must be the same on every rank, in the user's words (`--lag`, `model`), and what
/// this rank has there, such as a setting or a digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    items: Vec<(String, String)>,
}

impl Terms {
    /// Nothing yet.
    pub fn new() -> Self {
        Terms::default()
    }

    /// The same and one more thing.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.items.push((name.to_owned(), value.to_string()));
        self
    }

    /// For another rank, which [compares](Self::compare) it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in self.items.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut texts = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            texts.push(std::str::from_utf8(text).ok()?.to_owned());
            bytes = rest;
        }
        let items = texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        (bytes.is_empty() && texts.len() % 2 == 0).then(|| Terms { items: items.collect() })
    }

    /// Compares what all ranks have given, each as [`to_bytes`](Self::to_bytes), in rank order. All ranks come to the same
    /// verdict, since all compare the same.
    ///
    /// # Errors
    ///
    /// Everything that differs.
    pub fn compare<B: AsRef<[u8]>>(of_ranks: &[B]) -> Result<(), Disagreement> {
        let read = |bytes: &B| {
            let unreadable = || Terms::new().with("version", "of a program that writes its terms in another way");
            Terms::from_bytes(bytes.as_ref()).unwrap_or_else(unreadable)
        };
        let of_ranks: Vec<Terms> = of_ranks.iter().map(read).collect();
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in of_ranks.iter().flat_map(|terms| &terms.items) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let mut differing = Vec::new();
        for name in names {
            let mut values: BTreeMap<&str, Vec<Rank>> = BTreeMap::new();
            for (rank, terms) in of_ranks.iter().enumerate() {
                let value = terms.items.iter().find(|(own, _)| own == name);
                values.entry(value.map_or("nothing", |(_, value)| value)).or_default().push(rank);
            }
            if values.len() > 1 {
                let mut values: Vec<_> = values.into_iter().map(|(value, ranks)| (value.to_owned(), ranks)).collect();
                // What most ranks have comes first.
                values.sort_by_key(|(_, ranks)| (std::cmp::Reverse(ranks.len()), ranks[0]));
                differing.push(Difference { name: name.to_owned(), values });
            }
        }
        if differing.is_empty() { Ok(()) } else { Err(Disagreement { differing }) }
    }
}

/// One thing that is not the same on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// What there is, and which ranks have it; what most have comes first.
    pub values: Vec<(String, Vec<Rank>)>,
}

/// Ranks of a group don't agree on what they compute. The same on every rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Disagreement {
    /// What differs, at least one thing.
    pub differing: Vec<Difference>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ranks differ: ")?;
        for (place, Difference { name, values }) in self.differing.iter().enumerate() {
            write!(f, "{}{name} is ", if place == 0 { "" } else { "; " })?;
            for (place, (value, ranks)) in values.iter().enumerate() {
                write!(f, "{}{value} on {}", if place == 0 { "" } else { " and " }, Named(ranks))?;
            }
        }
        f.write_str(". Start all ranks with the same")
    }
}

/// `rank 3`, `ranks 0 to 2 and 5`.
struct Named<'a>(&'a [Rank]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 8;
        let mut runs: Vec<(Rank, Rank)> = Vec::new();
        for &rank in self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == rank => *last = rank,
                _ => runs.push((rank, rank)),
            }
        }
        f.write_str(if self.0.len() == 1 { "rank " } else { "ranks " })?;
        for (place, (first, last)) in runs.iter().take(MOST).enumerate() {
            f.write_str(if place == 0 { "" } else { ", " })?;
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first}, {last}")?,
                _ => write!(f, "{first} to {last}")?,
            }
        }
        if runs.len() > MOST { f.write_str(" and others") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(lag: u32, model: &str) -> Vec<u8> {
        Terms::new().with("--lag", lag).with("model", model).to_bytes()
    }

    #[test]
    fn equal_terms_agree_and_others_name_what_differs_and_where() {
        let same = terms(4, "a");
        assert_eq!(Terms::compare(&[same.clone(), same.clone()]), Ok(()));
        let error =
            Terms::compare(&[same.clone(), terms(2, "a"), same.clone(), same.clone(), terms(4, "b")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the ranks differ: --lag is 4 on ranks 0, 2 to 4 and 2 on rank 1; model is a on ranks 0 to 3 and b on rank 4. Start \
             all ranks with the same"
        );
        let more = Terms::new().with("--lag", 4).with("model", "a").with("--wire", "f16").to_bytes();
        let error = Terms::compare(&[same.clone(), more]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the ranks differ: --wire is nothing on rank 0 and f16 on rank 1. Start all ranks with the same"
        );
        let error = Terms::compare(&[same, vec![1, 2, 3]]).unwrap_err().to_string();
        assert!(error.contains("version is"), "{error}");
    }

    proptest! {
        #[test]
        fn terms_survive_the_way(items in prop::collection::vec((".{0,20}", ".{0,40}"), 0..9)) {
            let terms = items.iter().fold(Terms::new(), |terms, (name, value)| terms.with(name, value));
            prop_assert_eq!(Terms::from_bytes(&terms.to_bytes()), Some(terms));
        }

        #[test]
        fn nonsense_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let _ = Terms::compare(&[&bytes[..], &[]]);
        }
    }
}
