//! A model that can be replaced while requests go on.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use slackline_embedding::{Generation, Generations, Load, Retired, Verify};

use crate::{DlrmError, LocalModel, ModelDirectory, Result};

/// A model in one process that can be replaced by a newer generation while requests go on.
///
/// A generation is a whole model directory, dense weights and tables. A request takes one with [`current`](Self::current)
/// and never sees values of another. See [`Generations`] for the mechanism and its cost.
///
/// The new directory may be at another path, at the path of the old one, or behind a symbolic link that was switched. The
/// old one may be deleted from disk at any time: mapped files stay readable. Files of a directory must not be changed in
/// place; see [`Shard`](slackline_embedding::Shard).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use slackline_dlrm::{Batch, Load, LocalScratch, ModelConfig, ServedModel, TableInput, Verify, write_synthetic};
///
/// let config = ModelConfig::from_json(
///     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "10", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
/// )?.config;
/// let folder = tempfile::tempdir()?;
/// let (today, tomorrow) = (folder.path().join("model"), folder.path().join("model.new"));
/// write_synthetic(&config, 1, &today, 1, &mut |_| ())?;
/// let served = ServedModel::open(&today, Load::Mapped, Verify::Checksums)?;
///
/// // A request that is under way while the model is replaced.
/// let row = TableInput { indices: vec![7], offsets: vec![0, 1], ..TableInput::default() };
/// let batch = Batch { samples: 1, dense: vec![0.1, 0.2, 0.3], tables: vec![row], ..Batch::default() };
/// let (mut scratch, mut before, mut again, mut after) = (LocalScratch::default(), vec![], vec![], vec![]);
/// let request = served.current();
/// request.predict_with(&batch, &mut scratch, &mut before)?;
///
/// write_synthetic(&config, 2, &tomorrow, 1, &mut |_| ())?;
/// std::fs::remove_dir_all(&today)?;
/// std::fs::rename(&tomorrow, &today)?;
/// let retired = served.reload(&today)?;
///
/// request.predict_with(&batch, &mut scratch, &mut again)?;
/// assert_eq!(before, again);
/// served.current().predict_with(&batch, &mut scratch, &mut after)?;
/// assert_ne!(before, after);
/// drop(request);
/// drop(retired.wait(Duration::from_secs(10)).expect("the request was the last"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ServedModel {
    generations: Generations<LocalModel>,
    load: Load,
    verify: Verify,
}

impl ServedModel {
    /// Opens the first generation, number 0. Later generations are loaded and verified in the same way.
    ///
    /// # Errors
    ///
    /// Those of [`ModelDirectory::open`], [`ModelDirectory::load_dense`] and [`ModelDirectory::load_tables`];
    /// [`DlrmError::Replaced`].
    pub fn open(path: impl AsRef<Path>, load: Load, verify: Verify) -> Result<Self> {
        let first = load_model(path.as_ref(), load, verify)?;
        Ok(Self { generations: Generations::new(first), load, verify })
    }

    /// The current generation, for one request. Requests share it through [`LocalModel::predict_with`]. Costs a few atomic
    /// operations and never waits.
    pub fn current(&self) -> Generation<LocalModel> {
        self.generations.current()
    }

    /// Opens a directory beside the current generation, [warms it up](LocalModel::warm_up), and switches to it.
    ///
    /// Requests that start afterwards see it. [`Retired::wait`] waits for those under way and returns the old generation, so
    /// that it is dropped here and not by a request.
    ///
    /// Cost: loading and verifying as in [`open`](Self::open), and memory for both generations until the old one is dropped
    /// (all of it with [`Load::Copied`], otherwise the pages that are looked up). With [`Load::Mapped`] the first lookups
    /// wait for the disk; [`Load::Prefaulted`] reads everything before the switch.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), with the file that is missing, short or altered; [`DlrmError::UnfitModel`] for a model
    /// that current requests do not fit. The current generation then stays in place.
    pub fn reload(&self, path: impl AsRef<Path>) -> Result<Retired<LocalModel>> {
        let path = path.as_ref();
        let next = load_model(path, self.load, self.verify)?;
        self.generations.switch(next).map_err(|source| DlrmError::UnfitModel { path: path.to_owned(), source })
    }
}

fn load_model(path: &Path, load: Load, verify: Verify) -> Result<LocalModel> {
    let io = || DlrmError::io(path, "open");
    // Files are opened one after another. A link that is switched meanwhile must not lead to two directories, …
    let folder = fs::canonicalize(path).map_err(io())?;
    let before = fs::metadata(&folder).map_err(io())?;
    let directory = ModelDirectory::open(&folder)?;
    // … and neither must a directory that is replaced. All files are open now.
    if identity(&before) != identity(&fs::metadata(&folder).map_err(io())?) {
        return Err(DlrmError::Replaced { path: path.to_owned() });
    }
    let tables: Vec<usize> = (0..directory.config().tables()).collect();
    let mut model = LocalModel::new(directory.load_dense()?, directory.load_tables(&tables, load, verify)?)?;
    model.warm_up()?;
    Ok(model)
}

/// Identifies a directory and the time of its last change, so that one that was replaced and put back is noticed as well.
fn identity(folder: &Metadata) -> [i64; 4] {
    [folder.dev() as i64, folder.ino() as i64, folder.ctime(), folder.ctime_nsec()]
}
