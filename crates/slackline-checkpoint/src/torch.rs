//! The two containers of `torch.save`: a zip file of uncompressed entries (since PyTorch 1.6), and a stream of pickles and
//! raw storages (before 1.6).

use std::collections::HashMap;

use crate::archive::Archive;
use crate::layout::{Layout, Piece};
use crate::names::{Named, find_tensors};
use crate::pickle::heap::{Object, ObjectId, Storage, TYPES, Tensor, Value};
use crate::pickle::{self, Pickle};
use crate::shape::{elements, extent};
use crate::source::{Cursor, Source};
use crate::tensor::{Found, Place, Stored, TensorInfo};
use crate::{CheckpointError, Corrupt, foreign};

/// The only version of the legacy format.
const LEGACY_VERSION: i64 = 1001;

/// The tensors of a zip file, by the names in the file, and what else is in it.
pub(crate) fn open_zip(source: &Source, number: usize) -> Result<Found, CheckpointError> {
    let archive = Archive::open(source)?;
    if let Some(kind) = foreign::of_archive(archive.names()) {
        return Err(kind.refused(source.path()));
    }
    let root = archive_root(&archive, source)?;
    let order = format!("{root}/byteorder");
    if let Some(entry) = archive.get(&order) {
        let at = archive.content(&order, entry)?;
        let mut word = vec![0; entry.size.min(16) as usize];
        source.read(at, &mut word, "the byte order")?;
        if word != b"little" {
            return Err(unsupported(source, format!("byte order `{}`", word.escape_ascii())));
        }
    }
    let entry_name = format!("{root}/data.pkl");
    let entry = missing(source, &entry_name, archive.get(&entry_name))?;
    let at = archive.content(&entry_name, entry)?;
    let mut cursor = Cursor::new(source, at, at + entry.size, "the pickle");
    let pickle = pickle::load(&mut cursor)?;

    // The entry of each storage is looked up once, however many tensors share it.
    let mut places: HashMap<Box<str>, (u64, u64)> = HashMap::new();
    resolve(&pickle, source, number, |storage| {
        if let Some(&place) = places.get(&storage.key) {
            return Ok(place);
        }
        let name = format!("{root}/data/{}", storage.key);
        let entry = missing(source, &name, archive.get(&name))?;
        let place = (archive.content(&name, entry)?, entry.size);
        places.insert(storage.key.clone(), place);
        Ok(place)
    })
}

/// The tensors of a legacy file, by the names in the file, and what else is in it.
pub(crate) fn open_legacy(source: &Source, number: usize) -> Result<Found, CheckpointError> {
    let mut cursor = Cursor::new(source, 0, source.len(), "a pickle");
    pickle::load(&mut cursor)?;
    let at = cursor.at();
    if pickle::load(&mut cursor)?.root != Value::Int(LEGACY_VERSION) {
        return Err(source.corrupt(Corrupt::Pickle { at, what: "version of the legacy format other than 1001" }));
    }
    let system = pickle::load(&mut cursor)?;
    if let Value::Object(id) = system.root
        && let Object::Dict(fields) = system.heap.get(id)
        && fields.iter().any(|&(k, v)| system.heap.text(k) == Some("little_endian") && v != Value::Bool(true))
    {
        return Err(unsupported(source, "big-endian byte order".to_owned()));
    }
    let pickle = pickle::load(&mut cursor)?;
    let places = legacy_storages(&pickle, &mut cursor)?;
    resolve(&pickle, source, number, |storage| {
        places.get(&*storage.key).copied().ok_or_else(|| {
            let (at, key) = (storage.at, storage.key.to_string());
            source.corrupt(Corrupt::Storage { at, key, what: "not in the file".to_owned() })
        })
    })
}

/// Position and length of every storage. The file has a pickled list of their keys, then for each the number of its
/// elements (8 bytes) and its bytes.
fn legacy_storages(pickle: &Pickle, cursor: &mut Cursor<'_>) -> Result<HashMap<String, (u64, u64)>, CheckpointError> {
    let mut sizes: HashMap<&str, u64> = HashMap::new();
    for object in pickle.heap.objects() {
        let Object::Storage(storage) = object else { continue };
        let size = TYPES[storage.ty].size;
        if *sizes.entry(&storage.key).or_insert(size) != size {
            let (at, key) = (storage.at, storage.key.to_string());
            let what = "used with element types of two sizes".to_owned();
            return Err(cursor.corrupt(Corrupt::Storage { at, key, what }));
        }
    }
    let at = cursor.at();
    let keys = pickle::load(cursor)?;
    let Some(list) = keys.heap.sequence(keys.root) else {
        return Err(cursor.corrupt(Corrupt::Pickle { at, what: "the keys of the storages are not a list" }));
    };
    let mut places = HashMap::new();
    for &key in list {
        let at = cursor.at();
        let key = match key {
            Value::Int(number) => number.to_string(),
            _ => match keys.heap.text(key) {
                Some(key) => key.to_owned(),
                None => {
                    return Err(cursor.corrupt(Corrupt::Pickle { at, what: "the key of a storage is not a string" }));
                }
            },
        };
        let wrong = |cursor: &Cursor<'_>, what: String| cursor.corrupt(Corrupt::Storage { at, key: key.clone(), what });
        let elements = i64::from_le_bytes(cursor.array()?);
        let Some(&size) = sizes.get(&*key) else {
            return Err(wrong(cursor, "no tensor uses it, so its length is unknown".to_owned()));
        };
        let Some(bytes) = u64::try_from(elements).ok().and_then(|n| n.checked_mul(size)) else {
            return Err(wrong(cursor, format!("has {elements} elements")));
        };
        let place = (cursor.at(), bytes);
        cursor.skip(bytes)?;
        if places.contains_key(&key) {
            return Err(wrong(cursor, "appears twice".to_owned()));
        }
        places.insert(key, place);
    }
    Ok(places)
}

/// Checks every tensor of the model against its storage, whose position and length `place` finds.
fn resolve(
    pickle: &Pickle,
    source: &Source,
    number: usize,
    mut place: impl FnMut(&Storage) -> Result<(u64, u64), CheckpointError>,
) -> Result<Found, CheckpointError> {
    let Named { tensors, skipped } = find_tensors(pickle, source)?;
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, id) in tensors {
        let tensor = checked(pickle, source, number, &name, id, &mut place)?;
        stored.push((name, tensor));
    }
    Ok(Found { tensors: stored, skipped })
}

fn checked(
    pickle: &Pickle,
    source: &Source,
    number: usize,
    name: &str,
    id: ObjectId,
    place: &mut impl FnMut(&Storage) -> Result<(u64, u64), CheckpointError>,
) -> Result<Stored, CheckpointError> {
    let wrong = |what: String| source.corrupt(Corrupt::Tensor { tensor: name.to_owned(), what });
    let Object::Tensor(Tensor { storage, ty, offset, shape, strides, twist }) = pickle.heap.get(id) else {
        return Err(wrong("not a tensor".to_owned()));
    };
    let Object::Storage(storage) = pickle.heap.get(*storage) else {
        return Err(wrong("no storage".to_owned()));
    };
    let (at, available) = place(storage)?;
    let ty = &TYPES[*ty];
    let storage_size = TYPES[storage.ty].size;
    let Some(bytes) = elements(shape).and_then(|n| n.checked_mul(ty.size)) else {
        return Err(wrong(format!("shape {shape:?} has more elements than any machine can address")));
    };
    // A view of a storage starts inside of it.
    let first = storage.first.checked_mul(storage_size);
    let end = first.zip(storage.elements.checked_mul(storage_size)).and_then(|(first, len)| first.checked_add(len));
    let (Some(first), Some(end)) = (first, end) else {
        return Err(wrong(format!("its storage `{}` has {} elements", storage.key, storage.elements)));
    };
    if end > available {
        let key = &storage.key;
        return Err(wrong(format!("its storage `{key}` has {available} bytes, but {end} are declared")));
    }
    let reach = extent(shape, strides, ty.size);
    let start = offset.checked_mul(ty.size).and_then(|offset| offset.checked_add(first));
    let start = match (start, reach) {
        // A tensor without elements needs no place.
        (_, Some(0)) => 0,
        (Some(start), Some(reach)) if start.checked_add(reach).is_some_and(|e| e <= end) => start,
        _ => {
            return Err(wrong(format!(
                "shape {shape:?} with strides {strides:?} from element {offset} does not fit in the {} bytes of its \
                 storage `{}`",
                end - first,
                storage.key
            )));
        }
    };
    let layout = Layout { at: at + start, item: ty.size as usize, shape: shape.to_vec(), strides: strides.to_vec() };
    let place = Place::One(Piece { source: number, layout, extent: reach.unwrap_or(0) });
    let dtype = twist.map_or_else(|| ty.dtype(), |twist| pickle.heap.twisted(ty, twist));
    Ok(Stored { info: TensorInfo { dtype, shape: shape.to_vec(), bytes }, place })
}

/// The folder in the archive that has all entries: PyTorch names it after the file.
fn archive_root(archive: &Archive<'_>, source: &Source) -> Result<String, CheckpointError> {
    let mut roots =
        archive.names().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|root| !root.contains('/'));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root.to_owned()),
        (None, _) => Err(CheckpointError::NotPyTorch { file: source.path().to_owned() }),
        (Some(_), Some(second)) => {
            let entry = format!("{second}/data.pkl");
            Err(source.corrupt(Corrupt::Entry { entry, what: "the second `data.pkl` of the file" }))
        }
    }
}

fn missing<T>(source: &Source, entry: &str, found: Option<T>) -> Result<T, CheckpointError> {
    found.ok_or_else(|| source.corrupt(Corrupt::Entry { entry: entry.to_owned(), what: "missing" }))
}

fn unsupported(source: &Source, what: String) -> CheckpointError {
    CheckpointError::Unsupported { file: source.path().to_owned(), what }
}
