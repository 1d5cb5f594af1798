//! Files of a crate that use each other in a circle.
//!
//! A path that begins with `crate`, `self` or `super` leads to the file of the deepest module that it names, through
//! re-exports. A module that declares or re-exports its submodules does not use them by that, what a submodule takes from
//! the modules that it is part of is no arrow either, and the code of tests counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source::{Source, Word};

/// A module's path within its crate; empty for the root.
type Module = Vec<String>;

/// Complains about every circle among the given sources of one crate, whose root is `src`.
pub(super) fn check(src: &Path, sources: &[Source], complaints: &mut Vec<String>) {
    let files: BTreeMap<Module, &Source> =
        sources.iter().filter_map(|source| Some((module_of(src, &source.path)?, source))).collect();
    let exports = exports(&files);
    let mut uses: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (module, source) in &files {
        for path in source.paths.iter().filter(|path| !path.exported) {
            let target = resolve(&files, &exports, module, &path.words);
            if let Some(target) = target.filter(|target| !module.starts_with(target)) {
                uses.entry(module).or_default().insert(target);
            }
        }
    }
    for circle in circles(&uses) {
        let names: Vec<String> = circle.iter().map(|module| files[*module].path.display().to_string()).collect();
        complaints.push(format!("these files use each other in a circle: {}", names.join(", ")));
    }
}

/// The module whose code a file holds.
fn module_of(src: &Path, file: &Path) -> Option<Module> {
    let inner = file.strip_prefix(src).ok()?.with_extension("");
    let mut module: Module = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    Some(module)
}

/// What each module re-exports: the name that is seen there, and the path behind it.
fn exports(files: &BTreeMap<Module, &Source>) -> BTreeMap<(Module, String), Vec<Word>> {
    let mut exports = BTreeMap::new();
    for (module, source) in files {
        for path in source.paths.iter().filter(|path| path.exported) {
            exports.insert((module.clone(), path.name.clone()), path.words.clone());
        }
    }
    exports
}

/// The file that holds what a path in `module` names, or `None` where it leads out of the crate.
fn resolve<'m>(
    files: &'m BTreeMap<Module, &Source>,
    exports: &BTreeMap<(Module, String), Vec<Word>>,
    module: &Module,
    words: &[Word],
) -> Option<&'m Module> {
    let mut at = module.clone();
    let mut words = words.iter().peekable();
    match words.peek()?.as_str() {
        "crate" => {
            words.next();
            at.clear();
        }
        "self" => {
            words.next();
        }
        "super" => {
            while words.next_if(|word| *word == "super").is_some() {
                at.pop()?;
            }
        }
        // A submodule, named without `self`.
        first if files.contains_key(&[at.as_slice(), &[first.to_owned()]].concat()) => {}
        _ => return None,
    }
    while let Some(word) = words.next() {
        let inner = [at.as_slice(), std::slice::from_ref(word)].concat();
        if files.contains_key(&inner) {
            at = inner;
        } else if let Some(behind) = exports.get(&(at.clone(), word.clone())) {
            let rest: Vec<Word> = behind.iter().cloned().chain(words.cloned()).collect();
            return resolve(files, exports, &at, &rest);
        } else {
            break;
        }
    }
    files.get_key_value(&at).map(|(module, _)| module)
}

/// The strongly connected parts with more than one member, each in order of names.
fn circles<'m>(uses: &BTreeMap<&'m Module, BTreeSet<&'m Module>>) -> Vec<Vec<&'m Module>> {
    let reached = |from: &'m Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            open.extend(uses.get(module).into_iter().flatten().filter(|next| seen.insert(**next)));
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = uses.keys().map(|module| (*module, reached(module))).collect();
    let together = |a: &Module, b: &Module| reached[a].contains(b) && reached.get(b).is_some_and(|set| set.contains(a));
    let mut circles: Vec<Vec<&Module>> = Vec::new();
    for module in reached.keys().filter(|module| reached[**module].contains(**module)) {
        match circles.iter_mut().find(|circle| together(circle[0], module)) {
            Some(circle) => circle.push(module),
            None => circles.push(vec![module]),
        }
    }
    circles
}

/// The root folders of the crates among `files`: those that hold a `src/lib.rs` or a `src/main.rs`.
pub(super) fn roots(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let root = |file: &PathBuf| file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
    files.iter().filter(|file| root(file)).filter_map(|file| file.parent().map(Path::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::read(Path::new(path), text).expect("it is Rust")).collect();
        let mut complaints = Vec::new();
        check(Path::new("src"), &sources, &mut complaints);
        complaints
    }

    #[test]
    fn siblings_that_use_each_other_are_a_circle() {
        let files = [
            ("src/lib.rs", "mod a; mod b; pub use self::a::A; pub use b::B;"),
            ("src/a.rs", "use crate::B; pub struct A(B);"),
            ("src/b.rs", "pub struct B; fn f() { let _ = super::a::A(B); }"),
        ];
        assert_eq!(found(&files), ["these files use each other in a circle: src/a.rs, src/b.rs"]);
    }

    #[test]
    fn a_parent_that_hands_on_is_none_and_tests_are_not_looked_at() {
        let files = [
            ("src/lib.rs", "mod a; mod b; pub use self::{a::A, b::B};"),
            ("src/a.rs", "use crate::B; pub struct A(B);"),
            ("src/b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::A; }"),
        ];
        assert!(found(&files).is_empty());
    }

    #[test]
    fn a_part_may_use_what_it_is_part_of_but_not_the_users_of_its_parent() {
        let mut files = vec![
            ("src/lib.rs", "mod a; mod c;"),
            ("src/a.rs", "mod b; pub struct A; fn f() { b::g() }"),
            ("src/a/b.rs", "use super::A; pub fn g() {}"),
            ("src/c.rs", "use crate::a::A;"),
        ];
        assert!(found(&files).is_empty());
        files[2].1 = "use crate::c::C; pub fn g() {}";
        assert_eq!(found(&files), ["these files use each other in a circle: src/a.rs, src/a/b.rs, src/c.rs"]);
    }
}
