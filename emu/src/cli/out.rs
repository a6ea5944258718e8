//! Output: a reader that has seen enough is not an error, colour is for terminals alone.

use std::io::{self, IsTerminal as _, Write as _};

/// Writes to standard output. A closed pipe ends the process quietly, as SIGPIPE would; any other
/// error ends it with code 4.
pub fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let done = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match done {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            error(&format!("standard output: {e}"), "");
            std::process::exit(super::Exit::Internal as i32);
        }
    }
}

/// [`print()`] with a newline.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Whether standard output is read by a person as it comes.
#[must_use]
pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// An error on standard error: what is wrong, with the file, and what to do next.
pub fn error(what: &str, next: &str) {
    let head = paint(io::stderr().is_terminal(), Colour::Red, "error");
    let next = if next.is_empty() { String::new() } else { format!("\n  next: {next}") };
    // There is nobody left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{head}: {what}{next}");
}

/// Words of another program, or findings already worded, on standard error.
pub fn warn(text: &str) {
    // There is nobody left to tell when standard error is closed.
    let _closed = io::stderr().write_all(text.as_bytes());
}

/// Colours with a meaning.
#[derive(Clone, Copy, Debug)]
pub enum Colour {
    /// Good.
    Green,
    /// Bad.
    Red,
    /// Neither.
    Yellow,
}

/// A word in colour when standard output is a terminal and `NO_COLOR` is not set.
#[must_use]
pub fn colour(colour: Colour, text: &str) -> String {
    paint(io::stdout().is_terminal(), colour, text)
}

fn paint(terminal: bool, colour: Colour, text: &str) -> String {
    if !terminal || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => 32,
        Colour::Red => 31,
        Colour::Yellow => 33,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Rows as aligned columns; cells of the last column are not padded.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|i| width(i).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}", w = *w)).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
