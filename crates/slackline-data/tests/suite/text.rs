//! Text as programs write it: byte order marks, quotes, and the ends of gzip streams, alike in every reader.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use slackline_data::{Batch, Input, InputFormat, InputOptions, InputShape, ids};
use tempfile::TempDir;

const BOM: &[u8] = b"\xef\xbb\xbf";
const TSV: &str = "1\t3\tff\n0\t\tfe\n";
const CSV: &str = "Label,I1,C1\n1,3,ff\n0,,fe\n";

fn shape() -> InputShape {
    InputShape { dense_features: 1, table_rows: vec![256] }
}

fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clicks");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// What every reader of the file makes of it: the samples, and as many ids; or what all of them say.
fn read(content: &[u8]) -> Result<(Batch, Vec<String>), String> {
    let (_folder, path) = file(content);
    let name = format!("{}: ", path.display());
    let say = |error: slackline_data::DataError| error.to_string().replace(&name, "");
    let mut batch = Batch::default();
    let samples =
        Input::open(&path, None, &shape()).and_then(|mut input| input.next_batch(9, &mut batch).map(|_| input));
    let samples = samples.and_then(|mut input| input.next_batch(9, &mut Batch::default()));
    let ids = ids(&path, &InputOptions::default(), &shape()).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match (samples, ids) {
        (Ok(_), Ok(ids)) => Ok((batch, ids)),
        (Err(error), Err(of_ids)) => {
            assert_eq!(say(error), say(of_ids));
            Err(say(InputFormat::detect(&path).err().unwrap_or_else(|| {
                Input::open(&path, None, &shape())
                    .and_then(|mut input| {
                        while input.next_batch(1, &mut Batch::default())? {}
                        Ok(())
                    })
                    .unwrap_err()
            })))
        }
        (samples, ids) => panic!("samples {samples:?}, ids {ids:?}"),
    }
}

#[test]
fn a_byte_order_mark_is_passed_over_in_every_format() {
    for text in [TSV, CSV] {
        let plain = read(text.as_bytes()).unwrap();
        assert_eq!((&plain.0.labels[..], &plain.0.tables[0].indices[..]), (&[1.0, 0.0][..], &[255, 254][..]));
        let marked = [BOM, text.as_bytes()].concat();
        assert_eq!(read(&marked).unwrap(), plain);
        if cfg!(feature = "gzip") {
            assert_eq!(read(&gzip(&marked)).unwrap(), plain);
        }
    }
    assert_eq!(read(BOM).unwrap_err(), "format not recognised: the file is empty");
}

#[test]
fn utf_16_is_named() {
    let utf_16 = |text: &str, mark: &[u8], order: fn(u16) -> [u8; 2]| {
        [mark, &text.encode_utf16().flat_map(order).collect::<Vec<_>>()].concat()
    };
    for text in [TSV, CSV] {
        for bytes in [
            utf_16(text, b"\xff\xfe", u16::to_le_bytes),
            utf_16(text, b"\xfe\xff", u16::to_be_bytes),
            utf_16(text, b"", u16::to_le_bytes),
            utf_16(text, b"", u16::to_be_bytes),
        ] {
            let said = read(&bytes).unwrap_err();
            assert!(said.contains("UTF-16") && said.contains("iconv"), "{said}");
            #[cfg(feature = "gzip")]
            assert_eq!(read(&gzip(&bytes)).unwrap_err(), said);
        }
    }
    assert!(read(b"ab\0\0\0\0\0\0\t").unwrap_err().contains("bytes of 0"));
}

#[test]
fn quoted_fields_are_read_with_any_separator() {
    let plain = read(CSV.as_bytes()).unwrap();
    for text in [
        "\"Label\",\"I1\",\"C1\"\n1,3,ff\n0,,fe\n",
        "\"Label\",\"I1\",\"C1\"\r\n\"1\",\"3\",\"ff\"\r\n\"0\",\"\",\"fe\"",
        "Label,\"I1\",\"a note, with \"\"quotes\"\"\",C1\n1,3,\"x, y\",ff\n0,,\"two\nlines\",fe",
    ] {
        assert_eq!(read(text.as_bytes()).unwrap(), plain, "{text}");
    }
    let plain = read(TSV.as_bytes()).unwrap();
    assert_eq!(read(b"\"1\"\t\"3\"\t\"ff\"\r\n\"0\"\t\"\"\t\"fe\"").unwrap(), plain);
}

#[test]
fn ids_are_what_was_quoted() {
    let (batch, ids) = read(b"Id,I1,C1\n\"a, \"\"b\"\"\",1,1\n\"two\r\nlines\",1,2\n5\" disc,1,3\n").unwrap();
    assert_eq!(batch.tables[0].indices, [1, 2, 3]);
    assert_eq!(ids, ["a, \"b\"", "two\r\nlines", "5\" disc"]);
}

#[test]
fn a_quote_that_is_not_closed_is_named_with_its_line() {
    let said = |content: &[u8]| read(content).unwrap_err().replace('\n', " ");
    for (content, expected) in [
        (&b"Label,I1,C1,note\n1,3,ff,x\n0,,fe,\"never\n1,3,ff,x\n"[..], ":3: a quoted field is not closed"),
        (b"\"Label,I1,C1\n1,3,ff\n", ":1: a quoted field is not closed"),
        (b"Label,I1,C1,Id\n1,3,ff,\"x\"y\n", ":2: text after the closing quote of a field"),
    ] {
        let found = said(content);
        assert!(found.contains(expected), "{found}");
    }
    let mut long = b"Label,I1,C1,Id\n1,3,ff,\"".to_vec();
    long.resize(long.len() + slackline_data::MAX_LINE + 9, b'\n');
    let found = said(&long);
    assert!(found.contains(":2: line is longer than") && found.contains("quoted field"), "{found}");
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    let (_folder, path) = file(b"Label,I1,note,C1\n1,3,\"three\n\nlines\",ff\n\n0,,x,wrong\n");
    let mut input = Input::open(&path, None, &shape()).unwrap();
    let error = input.next_batch(9, &mut Batch::default()).unwrap_err().to_string();
    assert!(error.contains("clicks:6: column C1"), "{error}");
}

#[cfg(feature = "gzip")]
#[test]
fn the_tail_of_a_gzip_stream() {
    let whole = gzip(TSV.as_bytes());
    let plain = read(TSV.as_bytes()).unwrap();
    let halves = [gzip(&TSV.as_bytes()[..9]), gzip(b""), gzip(&TSV.as_bytes()[9..])].concat();
    for good in [&whole, &halves, &[&whole[..], &[0; 1000]].concat()] {
        assert_eq!(read(good).unwrap(), plain);
    }
    for (tail, expected) in [
        (&b"tail"[..], "what follows its last member is no gzip"),
        (b"\0\0tail", "what follows its last member is no gzip"),
        (b"\x1f\x8b\x08", "truncated"),
        (b"\x1f\x8c\x08\0\0\0\0\0\0\0\0\0", "gzip stream is invalid after line"),
    ] {
        let said = read(&[&whole[..], tail].concat()).unwrap_err();
        assert!(said.starts_with("damaged: ") && said.contains(expected), "{tail:?}: {said}");
    }
    for length in 1..whole.len() {
        let said = read(&whole[..length]).unwrap_err();
        assert!(said.contains("truncated") || length < 2, "{length}: {said}");
    }
    let said = read(&gzip(b"PK\x03\x04 an archive")).unwrap_err();
    assert!(said.contains("decompress it first"), "{said}");
}
