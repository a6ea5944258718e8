//! `orrery watch FILE`: a run by eye, gone over in both directions.
//!
//! ```text
//!  keys ─► View (what is shown) ─► Past (Target: where the run stands) ─► Screen (text) ─► draw
//! ```
//!
//! **Invariants.** What is shown is a function of the view and of the machine where the run stands.
//! Nothing is told by colour alone. A script of keys sees what a terminal would.

mod axis;
mod draw;
mod keys;
mod panes;
mod past;
mod view;

use std::fs;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use bpf::Arch;
use ratatui::Terminal;
use ratatui::backend::{Backend, TestBackend};
use ratatui::crossterm::event::{self, Event};

use self::keys::Key;
use self::past::Past;
use self::view::View;
use super::replay::report::error_word;
use super::{Exit, out, scenario_text};
use crate::runner::RunError;
use crate::runner::cells::{self, Cell};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A scenario
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// x86_64, arm64, riscv64 or s390x; the scenario's first when left out
    #[arg(long, value_parser = super::arch)]
    arch: Option<Arch>,
    /// Seed of all random streams
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Presses these keys instead of reading them, and prints the screens
    #[arg(long, value_name = "KEYS")]
    script: Option<String>,
    /// Columns and rows of a scripted screen
    #[arg(long, value_name = "WxH", default_value = "80x24", value_parser = size)]
    size: (u16, u16),
}

/// `80x24`.
fn size(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let fits = |(w, h): &(u16, u16)| (20..=500).contains(w) && (8..=200).contains(h);
    parsed.filter(fits).ok_or_else(|| "COLUMNSxROWS is expected, 20x8 to 500x200".to_owned())
}

pub(super) fn run(args: &Args) -> Exit {
    let text = match scenario_text(&args.file) {
        Ok(text) => text,
        Err(exit) => return exit,
    };
    match watched(args, &text) {
        Ok(()) => Exit::Ok,
        Err((what, next, exit)) => {
            out::error(&what, next);
            exit
        }
    }
}

type Refused = (String, &'static str, Exit);

fn watched(args: &Args, text: &str) -> Result<(), Refused> {
    let name = args.file.display();
    if args.script.is_none() {
        terminal_will_do()?;
    }
    let cell = Cell { seed: args.seed, ..Cell::default() };
    let invalid = || (format!("{name} is no valid scenario"), CHECK, Exit::BadInput);
    let first = cells::read(&args.file, text, &cell).scenario.ok_or_else(invalid)?;
    // Of a matrix, the first cell.
    let cell = cells::cells(&first, args.seed).into_iter().next().unwrap_or(cell);
    let scenario = cells::read(&args.file, text, &cell).scenario.ok_or_else(invalid)?;
    let arch = args.arch.or_else(|| cells::archs(&scenario).first().copied());
    let arch = arch.unwrap_or(Arch::X86_64);
    let options = cells::options(&args.file, &cell);
    let failed = |e: RunError| (format!("{name} on {arch}: {e}"), REPLAY, error_word(&e).1);
    let title =
        args.file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut past = Past::new(&scenario, arch, &options, title + &cell.name).map_err(failed)?;
    match &args.script {
        Some(script) => {
            let keys = keys::script(script).map_err(|e| (e, KEYS, Exit::BadInput))?;
            out::print(&scripted(&mut past, &keys, args.size).map_err(failed)?);
            Ok(())
        }
        None => interactive(&mut past)
            .map_err(|e| (format!("{name} on {arch}: {e}"), REPLAY, Exit::Internal)),
    }
}

const CHECK: &str = "orrery scenario check says why";
const REPLAY: &str = "orrery replay says where";
const KEYS: &str = "keys are names as `right`, `pgdn`, `enter`, single characters, \"text\", \
                    `show`, each with *N for N times";

/// That there is a terminal which can place a cursor.
fn terminal_will_do() -> Result<(), Refused> {
    let next = "--script KEYS prints screens anywhere; --script '' the first one";
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(("watch needs a terminal".to_owned(), next, Exit::BadInput));
    }
    match std::env::var("TERM") {
        Ok(term) if term != "dumb" && !term.is_empty() => Ok(()),
        _ => Err(("the terminal is dumb: it cannot be drawn on".to_owned(), next, Exit::BadInput)),
    }
}

/// Presses keys and prints screens: where `show` stands, and the last one.
fn scripted(past: &mut Past<'_>, keys: &[Key], size: (u16, u16)) -> Result<String, RunError> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("memory is a screen");
    let (mut view, mut out) = (View::new(), String::new());
    let mut shown = false;
    for key in keys {
        shown = *key == Key::Show;
        match key {
            Key::Show => out += &screen(&mut terminal, past, &view),
            key if view.press(past, *key)? => {}
            _ => break,
        }
    }
    if !shown {
        out += &screen(&mut terminal, past, &view);
    }
    Ok(out)
}

fn screen(terminal: &mut Terminal<TestBackend>, past: &mut Past<'_>, view: &View) -> String {
    terminal.draw(|f| draw::draw(f, past, view, false)).expect("memory is a screen");
    let buffer = terminal.backend().buffer();
    let (width, rule) = (buffer.area.width, "-".repeat(buffer.area.width as usize));
    let row = |y: u16| {
        let cells: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        format!("{}\n", cells.trim_end())
    };
    (0..buffer.area.height).map(row).collect::<String>() + &rule + "\n"
}

fn interactive(past: &mut Past<'_>) -> Result<(), String> {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut terminal = ratatui::try_init().map_err(|e| e.to_string())?;
    let done = until_quit(&mut terminal, past, colour);
    ratatui::restore();
    done
}

fn until_quit<B: Backend>(
    terminal: &mut Terminal<B>,
    past: &mut Past<'_>,
    colour: bool,
) -> Result<(), String> {
    let mut view = View::new();
    loop {
        let drawn = terminal.draw(|f| draw::draw(f, past, &view, colour));
        drawn.map_err(|_| "the terminal cannot be written to".to_owned())?;
        let Event::Key(pressed) = event::read().map_err(|e| e.to_string())? else { continue };
        let Some(key) = keys::of(&pressed) else { continue };
        if !view.press(past, key).map_err(|e| e.to_string())? {
            return Ok(());
        }
    }
}

/// Screens of a scenario under a script of keys, as `--script` prints them.
///
/// # Errors
/// What `orrery watch` would report.
pub fn screens(
    file: &std::path::Path,
    arch: Arch,
    size: (u16, u16),
    script: &str,
) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    let parsed = cells::read(file, &text, &Cell::default());
    let scenario = parsed.scenario.ok_or("no valid scenario")?;
    let options = cells::options(file, &Cell::default());
    let title = file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let past = Past::new(&scenario, arch, &options, title);
    let mut past = past.map_err(|e| e.to_string())?;
    scripted(&mut past, &keys::script(script)?, size).map_err(|e| e.to_string())
}
