//! Text to records: version first, then `ron`, then includes; on error, the tree's words.

use crate::de::NodeDe;
use crate::schema::Scenario;
use crate::span::{Finding, Source, Span, with_source};
use crate::tree::{self, Kind};
use serde::Deserialize as _;

/// The format version this crate reads.
pub const VERSION: u32 = 1;
/// How deep includes may nest.
const INCLUDE_DEPTH_MAX: usize = 8;
/// A scenario is written by people; larger is a mistake or an attack.
const FILE_BYTES_MAX: usize = 16 << 20;

/// Where included files come from.
pub trait Files {
    /// The text of `path`, relative to the including file.
    ///
    /// # Errors
    /// Why it cannot be read, for a message.
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String>;
}

/// No includes are possible: text that came from nowhere.
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str, path: &str) -> Result<(String, String), String> {
        Err(format!("{path} cannot be read here"))
    }
}

/// A file that took part: its name and text, indexed by [`Span::file`].
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path as given.
    pub name: String,
    /// Contents.
    pub text: String,
}

/// What reading a scenario gives.
#[derive(Debug)]
pub struct Parsed {
    /// The scenario, includes merged, when there was no error.
    pub scenario: Option<Scenario>,
    /// Every file that took part.
    pub files: Vec<SourceFile>,
    /// What was found while reading.
    pub findings: Vec<Finding>,
    /// Matrix variables referred to, with their places.
    pub used: Vec<(String, Span)>,
}

/// Reads a scenario. `vars` are the matrix variables of one cell as RON text; a variable without
/// a value has the first of its axis, so that a file can be checked as a whole.
#[must_use]
pub fn parse(name: &str, text: &str, vars: &[(String, String)], files: &dyn Files) -> Parsed {
    let mut all = vars.to_vec();
    let given = |n: &str| vars.iter().any(|(have, _)| have == n);
    all.extend(first_values(text).into_iter().filter(|(n, _)| !given(n)));
    let vars = all.as_slice();
    let mut reader =
        Reader { files, vars, out: Vec::new(), findings: Vec::new(), used: Vec::new() };
    let scenario = reader.file(name, text.to_string(), &mut Vec::new());
    let mut findings = reader.findings;
    if let Some(s) = &scenario
        && s.expect.is_empty()
    {
        let message = "nothing is expected: `expect` is missing or empty";
        findings.push(Finding::error(s.span, message).hint("add expect: [Verdicts(..)]"));
    }
    let scenario = scenario.filter(|_| findings.is_empty());
    Parsed { scenario, files: reader.out, findings, used: reader.used }
}

/// The first value of each variable of the matrix, as RON text.
fn first_values(text: &str) -> Vec<(String, String)> {
    let member = |node: tree::Node, name: &str| match node.kind {
        Kind::Record(_, members) => members.into_iter().find(|m| m.name == name).map(|m| m.value),
        _ => None,
    };
    let text = text.trim_start_matches('\u{feff}');
    // Reading a file twice is for those that have variables.
    let file = text.contains("vars").then(|| tree::parse_file(text, 0).ok()).flatten();
    let matrix = file.and_then(|f| member(f, "matrix"));
    let Some(Kind::Map(entries)) = matrix.and_then(|m| member(m, "vars")).map(|v| v.kind) else {
        return Vec::new();
    };
    let shown = |n: &tree::Node| text.get(n.span.start as usize..n.span.end as usize);
    let first = |n: &tree::Node| match &n.kind {
        Kind::List(items) => items.first().and_then(shown).map(str::to_owned),
        Kind::Range { from: Some(from), .. } => shown(from).map(str::to_owned),
        _ => None,
    };
    let named = entries.iter().filter_map(|(k, v)| Some((k.as_str()?.to_owned(), first(v)?)));
    named.collect()
}

struct Reader<'a> {
    files: &'a dyn Files,
    vars: &'a [(String, String)],
    out: Vec<SourceFile>,
    findings: Vec<Finding>,
    used: Vec<(String, Span)>,
}

impl Reader<'_> {
    fn file(&mut self, name: &str, text: String, above: &mut Vec<String>) -> Option<Scenario> {
        let file = u16::try_from(self.out.len()).unwrap_or(u16::MAX);
        let text = text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_string);
        self.out.push(SourceFile { name: name.to_string(), text: text.clone() });
        let read = read_one(&text, file, self.vars);
        let mut scenario = match read {
            Ok((scenario, used)) => {
                self.used.extend(used);
                scenario
            }
            Err(finding) => {
                self.findings.push(finding);
                return None;
            }
        };
        above.push(name.to_string());
        for include in std::mem::take(&mut scenario.include) {
            self.include(name, &include, &mut scenario, above);
        }
        above.pop();
        Some(scenario)
    }

    fn include(
        &mut self,
        from: &str,
        path: &crate::schema::Name,
        into: &mut Scenario,
        above: &mut Vec<String>,
    ) {
        let refused = |message: String| Finding::error(path.span, message);
        if above.len() >= INCLUDE_DEPTH_MAX {
            let message = format!("includes nest deeper than {INCLUDE_DEPTH_MAX}");
            self.findings.push(refused(message));
            return;
        }
        let (name, text) = match self.files.read(from, &path.v) {
            Ok(found) => found,
            Err(why) => {
                self.findings.push(refused(why));
                return;
            }
        };
        if above.contains(&name) {
            self.findings.push(refused(format!("{name} includes itself")));
            return;
        }
        if let Some(mut included) = self.file(&name, text, above) {
            if let Some((folder, _)) = path.v.rsplit_once('/') {
                rebase(&mut included, folder);
            }
            merge(into, included, &mut self.findings);
        }
    }
}

/// Paths of an included file are relative to it.
fn rebase(s: &mut Scenario, folder: &str) {
    let join = |file: &mut crate::schema::Name| file.v = format!("{folder}/{}", file.v);
    s.objects.0.iter_mut().filter_map(|(_, o)| o.file.as_mut()).for_each(join);
    let packets = s.packets.0.iter_mut().map(|(_, layers)| layers);
    let flows = s.flows.0.iter_mut().map(|(_, f)| &mut f.like);
    for layer in packets.chain(flows).flatten() {
        if let crate::schema::Layer::Pcap { file, .. } = layer {
            join(file);
        }
    }
}

fn merge(into: &mut Scenario, from: Scenario, findings: &mut Vec<Finding>) {
    fn names<T>(
        into: &mut crate::schema::Names<T>,
        from: crate::schema::Names<T>,
        findings: &mut Vec<Finding>,
    ) {
        for (name, value) in from.0 {
            if let Some((first, _)) = into.0.iter().find(|(k, _)| k.v == name.v) {
                let message = format!("\"{}\" is defined twice", name.v);
                findings.push(Finding::error(first.span, message).also(name.span, "also here"));
            } else {
                into.0.push((name, value));
            }
        }
    }
    names(&mut into.objects, from.objects, findings);
    names(&mut into.packets, from.packets, findings);
    names(&mut into.flows, from.flows, findings);
    names(&mut into.tasks, from.tasks, findings);
}

type Used = Vec<(String, Span)>;

fn read_one(text: &str, file: u16, vars: &[(String, String)]) -> Result<(Scenario, Used), Finding> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(Finding::error(Span { file, start: 0, end: 0 }, message));
    }
    let source = || Source {
        base: text.as_ptr() as usize,
        len: text.len(),
        file,
        vars: vars.to_vec(),
        ..Source::default()
    };
    check_version(text, file)?;
    let options =
        ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    let (read, source) = with_source(source(), || options.from_str::<Scenario>(text));
    match read {
        Ok(mut scenario) => {
            let end = u32::try_from(text.len()).unwrap_or(u32::MAX);
            scenario.span = Span { file, start: 0, end: end.min(1) };
            Ok((scenario, source.used))
        }
        Err(error) => Err(explain(text, file, vars, &error, source.first)),
    }
}

/// The format version is read before anything else, so that a newer file says so.
fn check_version(text: &str, file: u16) -> Result<(), Finding> {
    let Ok(tree) = tree::parse_file(text, file) else { return Ok(()) };
    let Kind::Record(_, members) = &tree.kind else {
        let message = format!("a scenario was expected, found {}", tree.describe());
        return Err(Finding::error(tree.span, message).hint("write Scenario(orrery: 1, ..)"));
    };
    let Some(version) = members.iter().find(|m| m.name == "orrery") else {
        let mut open = tree.span;
        open.end = open.start + 1;
        let message = "the field `orrery` (the format version) is missing";
        return Err(Finding::error(open, message).hint("begin with orrery: 1,"));
    };
    match crate::leaf::int_of(&version.value) {
        Some(n) if n == i128::from(VERSION) => Ok(()),
        Some(n) => {
            let message = format!("this file is version {n}; this program reads version {VERSION}");
            Err(Finding::error(version.value.span, message))
        }
        None => Err(Finding::error(version.value.span, "the format version is a number")),
    }
}

/// ron decided; the tree explains. A leaf's own error has the best place.
fn explain(
    text: &str,
    file: u16,
    vars: &[(String, String)],
    error: &ron::error::SpannedError,
    first: Option<Finding>,
) -> Finding {
    let tree = match tree::parse_file(text, file) {
        Ok(tree) => tree,
        Err(finding) => return finding,
    };
    if let Some(finding) = first {
        return finding;
    }
    let source = Source {
        base: text.as_ptr() as usize,
        len: text.len(),
        file,
        vars: vars.to_vec(),
        ..Source::default()
    };
    let (read, source) =
        with_source(source, || Scenario::deserialize(NodeDe { node: &tree, text }));
    if let Some(finding) = source.first {
        return finding;
    }
    match read {
        Err(e) => e.into_finding(tree.span),
        Ok(_) => {
            let at = offset_of_position(text, error.span.start.line, error.span.start.col);
            Finding::error(Span { file, start: at, end: at + 1 }, error.code.to_string())
        }
    }
}

fn offset_of_position(text: &str, line: usize, col: usize) -> u32 {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let within = text[start..].chars().take(col.saturating_sub(1)).map(char::len_utf8);
    u32::try_from(start + within.sum::<usize>()).unwrap_or(0)
}
