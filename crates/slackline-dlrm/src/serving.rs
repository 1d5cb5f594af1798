//! A model that is replaced by newer ones while it is being asked.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use slackline_embedding::{Generation, Generations, Load, Retired, Verify};

use crate::{DlrmError, LocalModel, ModelDirectory, Result};

/// A model in one process, of which a newer generation can be loaded while requests go on.
///
/// A generation is a whole model directory, dense weights and tables: a request that takes it with
/// [`current`](Self::current) gets no value of another one. See [`Generations`] for the mechanism, and for who pays.
///
/// The new directory may lie at another path, have been renamed over the old one's, or be what a symbolic link now leads to.
/// The old one may be deleted from disk at any time: files that are mapped stay readable. What must not happen is that files
/// of a directory are changed in place ([`Shard`](slackline_embedding::Shard) says why).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use slackline_data::{Batch, TableInput};
/// use slackline_dlrm::{LocalScratch, ModelConfig, ServedModel, write_synthetic};
/// use slackline_embedding::{Load, Verify};
///
/// let config = ModelConfig::from_json(
///     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "10", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
/// )?.config;
/// let folder = tempfile::tempdir()?;
/// let (today, tomorrow) = (folder.path().join("model"), folder.path().join("model.new"));
/// write_synthetic(&config, 1, &today, 1, &mut |_| ())?;
/// let served = ServedModel::open(&today, Load::Mapped, Verify::Checksums)?;
///
/// // A request, which is under way while the model is replaced.
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
    /// Opens the first generation, number 0. This one and all that follow are loaded and verified in the same way.
    ///
    /// # Errors
    ///
    /// Those of [`ModelDirectory::open`], [`ModelDirectory::load_dense`] and [`ModelDirectory::load_tables`];
    /// [`DlrmError::Replaced`].
    pub fn open(path: impl AsRef<Path>, load: Load, verify: Verify) -> Result<Self> {
        let first = load_model(path.as_ref(), load, verify)?;
        Ok(Self { generations: Generations::new(first), load, verify })
    }

    /// The current generation, for one request, which shares it with others by
    /// [`LocalModel::predict_with`]. Costs a few atomic operations and never waits.
    pub fn current(&self) -> Generation<LocalModel> {
        self.generations.current()
    }

    /// Opens a directory beside the current generation, [warms it up](LocalModel::warm_up), and switches to it.
    ///
    /// Requests that begin afterwards see it. [`Retired::wait`] waits for those under way, and hands out the old generation
    /// to be dropped here and not by a request.
    ///
    /// Cost: reading what was asked for when the first was opened; memory for both generations until the old one is
    /// dropped (with [`Load::Copied`] all of it, else only the pages that are looked up). With [`Load::Mapped`] the first
    /// lookups wait for the disk; [`Load::Prefaulted`] pays for that before the switch.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), with the file that is missing, short or altered; [`DlrmError::UnfitModel`] for a model
    /// that today's requests do not fit. The current generation then stays as it is.
    pub fn reload(&self, path: impl AsRef<Path>) -> Result<Retired<LocalModel>> {
        let path = path.as_ref();
        let next = load_model(path, self.load, self.verify)?;
        self.generations.switch(next).map_err(|source| DlrmError::UnfitModel { path: path.to_owned(), source })
    }
}

fn load_model(path: &Path, load: Load, verify: Verify) -> Result<LocalModel> {
    let io = || DlrmError::io(path, "opening it");
    // Files are opened one after another: a link that is switched meanwhile must not lead to two directories, …
    let folder = fs::canonicalize(path).map_err(io())?;
    let before = fs::metadata(&folder).map_err(io())?;
    let directory = ModelDirectory::open(&folder)?;
    // … and a directory that is renamed away must not leave its place to another. From here on all files are open.
    if identity(&before) != identity(&fs::metadata(&folder).map_err(io())?) {
        return Err(DlrmError::Replaced { path: path.to_owned() });
    }
    let tables: Vec<usize> = (0..directory.config().tables()).collect();
    let mut model = LocalModel::new(directory.load_dense()?, directory.load_tables(&tables, load, verify)?)?;
    model.warm_up()?;
    Ok(model)
}

/// Which directory it is, and when its entries or its name last changed: a directory that came back is noticed as well.
fn identity(folder: &Metadata) -> [i64; 4] {
    [folder.dev() as i64, folder.ino() as i64, folder.ctime(), folder.ctime_nsec()]
}
