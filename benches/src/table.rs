// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tables in Markdown, and their place in a document between two marks.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

/// A table in Markdown.
#[derive(Debug)]
pub struct Table(String);

impl Table {
    /// A table with these heads.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        let mut table = Self(String::new());
        table.row(
            &heads
                .iter()
                .map(|head| (*head).to_owned())
                .collect::<Vec<_>>(),
        );
        table.row(&vec!["---".to_owned(); heads.len()]);
        table
    }

    /// One more row.
    pub fn row(&mut self, cells: &[String]) {
        // Writing to a string cannot fail.
        _ = writeln!(self.0, "| {} |", cells.join(" | "));
    }

    /// The table's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Puts `text` between `<!-- name -->` and `<!-- /name -->` of a document.
///
/// # Errors
/// When the document has no such marks.
pub fn replace(document: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(document)?;
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let missing = || format!("{} has no marks {name}", document.display());
    let (before, rest) = old.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    let new = format!("{before}{begin}{text}{end}{after}");
    Ok(std::fs::write(document, new)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_what_stood_between_its_marks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\n<!-- t -->\nold\n<!-- /t -->\nb\n").unwrap();
        replace(file.path(), "t", "new\n").unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n");
        assert!(replace(file.path(), "u", "").is_err());
    }
}
