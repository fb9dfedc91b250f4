//! Tables for people: columns as wide as their widest cell, the last one as it comes.

/// Lines of a table; the first row is its head.
#[must_use]
pub fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["A".to_owned(), "B".to_owned()],
            vec!["\u{2713}\u{2713}\u{2713}".to_owned(), String::new()],
        ];
        assert_eq!(lines(&rows), ["A    B", "\u{2713}\u{2713}\u{2713}"]);
        assert!(lines(&[]).is_empty());
    }
}
