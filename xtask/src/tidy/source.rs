//! What is read out of a source file: its tokens, without comments and strings.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A word of a path.
pub(super) type Word = String;

/// A file of Rust.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// The lines that say `unsafe`, in whatever form.
    pub(super) unsafe_lines: Vec<usize>,
    /// The paths that the code names, outside of tests.
    pub(super) paths: Vec<UsedPath>,
}

/// A path, as `crate::a::B`.
pub(super) struct UsedPath {
    pub(super) words: Vec<Word>,
    /// The name by which it is known where it is used.
    pub(super) name: Word,
    /// It is handed on: `pub use`.
    pub(super) exported: bool,
}

impl Source {
    pub(super) fn read(path: &Path, text: &str) -> Result<Self> {
        let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let mut source = Source { path: path.to_owned(), unsafe_lines: Vec::new(), paths: Vec::new() };
        source.find_unsafe(tokens.clone());
        source.find_paths(tokens);
        Ok(source)
    }

    fn find_unsafe(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "unsafe" => self.unsafe_lines.push(word.span().start().line),
                TokenTree::Group(group) => self.find_unsafe(group.stream()),
                _ => {}
            }
        }
    }

    fn find_paths(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut exported = false;
        while at < tokens.len() {
            if is_test_only(&tokens[at..]) {
                at = after_item(&tokens, at + 2);
                continue;
            }
            match &tokens[at] {
                TokenTree::Ident(word) if word == "pub" => {
                    exported = true;
                    at += 1;
                    // `pub(crate)` and the like.
                    at += usize::from(matches!(tokens.get(at), Some(TokenTree::Group(_))));
                    continue;
                }
                TokenTree::Ident(word) if word == "use" => {
                    let end = (at..tokens.len()).find(|at| is_punct(&tokens[*at], ';')).unwrap_or(tokens.len());
                    self.use_tree(&tokens[at + 1..end], &[], exported);
                    at = end;
                }
                TokenTree::Ident(_) if !is_colons(&tokens, at.wrapping_sub(2)) && is_colons(&tokens, at + 1) => {
                    let (words, end) = path(&tokens, at);
                    let name = words.last().cloned().unwrap_or_default();
                    self.paths.push(UsedPath { words, name, exported: false });
                    at = end;
                    exported = false;
                    continue;
                }
                TokenTree::Group(group) => self.find_paths(group.stream()),
                _ => {}
            }
            exported = false;
            at += 1;
        }
    }

    /// The paths of `use prefix::…`, branches and all.
    fn use_tree(&mut self, tokens: &[TokenTree], prefix: &[Word], exported: bool) {
        let (mut words, mut end) = path(tokens, 0);
        words.splice(0..0, prefix.iter().cloned());
        if let Some(TokenTree::Group(group)) = tokens.get(end).filter(|token| is_brace(token)) {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            for branch in inner.split(|token| is_punct(token, ',')).filter(|branch| !branch.is_empty()) {
                self.use_tree(branch, &words, exported);
            }
            return;
        }
        // `use a::{self}` names `a`.
        if words.len() > 1 && words.last().is_some_and(|last| last == "self") {
            words.pop();
        }
        let mut name = words.last().cloned().unwrap_or_default();
        if matches!(tokens.get(end), Some(TokenTree::Ident(word)) if word == "as") {
            end += 1;
            name = tokens.get(end).map(TokenTree::to_string).unwrap_or_default();
        }
        self.paths.push(UsedPath { words, name, exported });
    }
}

/// The words from `at` on that `::` joins, and where they end.
fn path(tokens: &[TokenTree], mut at: usize) -> (Vec<Word>, usize) {
    let mut words = Vec::new();
    if is_colons(tokens, at) {
        // `::name` is another crate's.
        words.push(String::new());
        at += 2;
    }
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        words.push(word.to_string());
        at += 1;
        if !is_colons(tokens, at) {
            break;
        }
        at += 2;
    }
    (words, at)
}

fn is_punct(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(found) if found.as_char() == punct)
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| tokens.get(at).is_some_and(|token| is_punct(token, ':'));
    colon(at) && at.checked_add(1).is_some_and(colon)
}

fn is_brace(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// Whether `#[cfg(test)]` begins here, or the attribute of a single test.
fn is_test_only(tokens: &[TokenTree]) -> bool {
    let [first, TokenTree::Group(group), ..] = tokens else { return false };
    let text: String = group.stream().to_string().split_whitespace().collect();
    is_punct(first, '#') && (text == "test" || text.starts_with("cfg(") && text.contains("test"))
}

/// Where the item ends that begins at `at`: after its braces or its semicolon.
fn after_item(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |at: &usize| is_brace(&tokens[*at]) || is_punct(&tokens[*at], ';');
    (at..tokens.len()).find(ends).map_or(tokens.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_unsafe_is_found_and_no_word_about_it() {
        let text = "// unsafe {\nfn a() { let _ = \"unsafe {\"; }\nunsafe\n{}\nunsafe impl X for Y {}\nunsafe extern \"C\" {}\n\
                    #[unsafe(no_mangle)]\nunsafe trait T {}\nfn b(f: unsafe fn()) {}\n#![forbid(unsafe_code)]\n";
        let source = Source::read(Path::new("a.rs"), text).expect("it is Rust");
        assert_eq!(source.unsafe_lines, [3, 5, 6, 7, 8, 9]);
    }
}
