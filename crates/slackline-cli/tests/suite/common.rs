//! Running the command in the tests: a folder with a small model and rows, and what a run left behind.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// 5 tables, so that 8 ranks leave some without one.
pub(crate) const CONFIG: &str = r#"{
    "arch_sparse_feature_size": 8, "arch_embedding_size": "300-7-50-1-120",
    "arch_mlp_bot": "4-16-8", "arch_mlp_top": "23-16-1"
}"#;

/// A folder with `config.json`, a model directory `model` in two shards, and `rows.csv`.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// With so many rows.
    pub(crate) fn new(rows: usize) -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::write(place.path("config.json"), CONFIG).unwrap();
        place.succeed(&["init", "--config", "config.json", "--seed", "3", "--output", "model", "--shards", "2"]);
        let rows = rows.to_string();
        place.succeed(&["generate", "--config", "config.json", "--rows", &rows, "--seed", "5", "--output", "rows.csv"]);
        place
    }

    /// An empty one.
    pub(crate) fn empty() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Everything in the folder, hidden files too, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The same without `name`, whether it is there or not.
    pub(crate) fn names_but(&self, name: &str) -> Vec<String> {
        self.names().into_iter().filter(|found| found != name).collect()
    }

    /// The command, to be run in the folder.
    pub(crate) fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slackline"));
        command.args(words).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, words: &[impl AsRef<OsStr>]) -> Run {
        Run::of(self.command(words).output().unwrap())
    }

    /// Runs it and expects success; returns standard output.
    pub(crate) fn succeed(&self, words: &[impl AsRef<OsStr>]) -> String {
        let run = self.run(words);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(run.stderr, "");
        run.stdout
    }

    /// Runs it and expects a failure that is told on one line, without a panic; returns that line.
    pub(crate) fn fail(&self, words: &[impl AsRef<OsStr>]) -> String {
        let run = self.run(words);
        assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
        assert_eq!(run.stdout, "");
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        let line = run.stderr.trim_end().strip_prefix("slackline: error: ");
        line.unwrap_or_else(|| panic!("{}", run.stderr)).to_owned()
    }
}

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// A run whose ranks are processes that have begun to work.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// The processes, in rank order.
    pub(crate) ranks: Vec<i32>,
}

impl Running {
    /// Starts `infer` on the folder's rows with 4 slow ranks, and waits until all of them have opened the input, which they
    /// do after they have joined the group. The run would take minutes.
    pub(crate) fn start(place: &Place, words: &[&str]) -> Self {
        // The format is given so that nobody opens the input just to look at it.
        let slow = "--input rows.csv --format criteo-csv --ranks 4 --transport shm --batch 1 --delay random:1..1 \
                    --delay-unit 50 --output out.csv";
        let words: Vec<&str> =
            ["infer", "model"].into_iter().chain(slow.split(' ')).chain(words.iter().copied()).collect();
        let child = place.command(&words).spawn().unwrap();
        let input = fs::canonicalize(place.path("rows.csv")).unwrap();
        let ranks = until("four ranks that have opened the input", || {
            let ranks: Vec<i32> = (0..4).filter_map(|rank| rank_process(child.id(), rank)).collect();
            let all = ranks.len() == 4 && ranks.iter().all(|&rank| has_open(rank, &input));
            all.then_some(ranks)
        });
        Running { child, ranks }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for its end; no rank may be there any more.
    pub(crate) fn end(self) -> Run {
        let run = Run::of(self.child.wait_with_output().unwrap());
        assert_gone(&self.ranks);
        run
    }
}

/// Waits, for at most half a minute, until there is something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// None of these processes exists, except perhaps as a name that nobody has asked for yet.
pub(crate) fn assert_gone(processes: &[i32]) {
    for process in processes {
        let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let state = state.rsplit_once(") ").map_or("", |(_, rest)| &rest[..1]);
        assert!(["", "Z", "X"].contains(&state), "process {process} is still there, in state {state}");
    }
}

/// The child of `parent` that was started as `rank`.
fn rank_process(parent: u32, rank: usize) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let is_rank = |child: &i32| {
        let variables = fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
        let wanted = format!("SLACKLINE_RANK={rank}");
        variables.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    children.split_whitespace().filter_map(|child| child.parse().ok()).find(is_rank)
}

/// Whether a process has a file open.
pub(crate) fn has_open(process: i32, file: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|target| target == file)
}
