//! The columns of Criteo's click logs, and finding them in a file.

use crate::lines::Lines;
use crate::quotes::fields;
use crate::{DataError, InputShape};

/// What a column of a row is; numbers are 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    Label,
    Dense(usize),
    Sparse(usize),
    /// A CSV column that is skipped.
    Other,
}

/// The columns that a CSV header names, or what is wrong with its quotes.
pub(crate) fn columns_of_header(line: &[u8]) -> Result<Vec<Column>, &'static str> {
    Ok(fields(line, b',')?.iter().map(|name| column_of_name(name)).collect())
}

fn column_of_name(name: &[u8]) -> Column {
    let name = name.trim_ascii();
    if name.eq_ignore_ascii_case(b"id") {
        return Column::Id;
    }
    if name.eq_ignore_ascii_case(b"label") {
        return Column::Label;
    }
    let number = || -> Option<usize> {
        let digits = name.get(1..).filter(|digits| digits.first().is_some_and(|&d| d.is_ascii_digit() && d != b'0'))?;
        std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?.checked_sub(1)
    };
    match (name.first(), number()) {
        (Some(b'I' | b'i'), Some(number)) => Column::Dense(number),
        (Some(b'C' | b'c'), Some(number)) => Column::Sparse(number),
        _ => Column::Other,
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Column::Id => f.write_str("Id"),
            Column::Label => f.write_str("Label"),
            Column::Dense(number) => write!(f, "I{}", number + 1),
            Column::Sparse(number) => write!(f, "C{}", number + 1),
            Column::Other => f.write_str("(other)"),
        }
    }
}

/// The columns of a CSV file, which its header names. Takes the header.
pub(crate) fn csv_columns(lines: &mut Lines, shape: &InputShape) -> Result<Vec<Column>, DataError> {
    let path = lines.path().to_owned();
    lines.separated_by(b',');
    let Some((line, header)) = lines.next()? else {
        return Err(DataError::Header { path, line: 1, problem: "the file is empty".to_owned() });
    };
    let columns = columns_of_header(header);
    let columns = columns.map_err(|problem| DataError::Quotes { path: path.clone(), line, problem })?;
    let header_error = |line, problem| DataError::Header { path, line, problem };
    let mut dense = vec![false; shape.dense_features];
    let mut sparse = vec![false; shape.table_rows.len()];
    let (mut id, mut label) = ([false], [false]);
    for column in &columns {
        let seen = match column {
            Column::Other => continue,
            Column::Id => id.get_mut(0),
            Column::Label => label.get_mut(0),
            Column::Dense(number) => dense.get_mut(*number),
            Column::Sparse(number) => sparse.get_mut(*number),
        };
        match seen {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(header_error(line, format!("column {column} appears twice"))),
            None => {
                let problem = format!("column {column}, but the model has {}", shape);
                return Err(header_error(line, problem));
            }
        }
    }
    let missing_dense = dense.iter().position(|seen| !seen).map(Column::Dense);
    let missing_sparse = sparse.iter().position(|seen| !seen).map(Column::Sparse);
    if let Some(column) = missing_dense.or(missing_sparse) {
        let problem = format!("no column {column}, but the model has {}", shape);
        return Err(header_error(line, problem));
    }
    Ok(columns)
}

/// The columns of a tab-separated file: whether the first row has a label is found by its number of columns.
pub(crate) fn tsv_columns(lines: &mut Lines, shape: &InputShape) -> Result<Vec<Column>, DataError> {
    let path = lines.path().to_owned();
    let features = (0..shape.dense_features).map(Column::Dense);
    let features = features.chain((0..shape.table_rows.len()).map(Column::Sparse));
    let labelled = || std::iter::once(Column::Label).chain(features.clone()).collect();
    let count = shape.dense_features + shape.table_rows.len();
    lines.separated_by(b'\t');
    let Some((line, row)) = lines.peek()? else { return Ok(features.collect()) };
    match fields(row, b'\t').map_err(|problem| DataError::Quotes { path: path.clone(), line, problem })?.len() {
        found if found == count + 1 => Ok(labelled()),
        found if found == count => Ok(features.collect()),
        found => {
            let expected = format!("{} (label, {}) or {count} (no label)", count + 1, shape);
            Err(DataError::Columns { path, line, found, expected })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_in_any_case_and_order() {
        use Column::*;
        let found = columns_of_header(b"C2, id ,\"i1\",LABEL,\"time, local\",I0,C01,I13");
        assert_eq!(found, Ok(vec![Sparse(1), Id, Dense(0), Label, Other, Other, Other, Dense(12)]));
    }
}
