//! `orrery inspect OBJ`: maps, programs, functions, BTF, CO-RE, and the code with its source.

use std::fmt::Write as _;
use std::path::PathBuf;

use bpf::Program;
use bpf::insn::disasm::disasm_op;
use bpf::insn::{Insn, InsnIdx, NoNames};
use bpf::object::{Inspection, inspect};
use serde_json::{Value, json};

use super::world::World;
use super::{Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A BPF object, of either byte order
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// As one JSON object
    #[arg(long)]
    json: bool,
    /// Only this program's code
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
}

pub(super) fn run(args: &Args) -> Exit {
    match shown(args) {
        Ok(text) => {
            out::print(&text);
            Exit::Ok
        }
        Err(exit) => exit,
    }
}

fn shown(args: &Args) -> Result<String, Exit> {
    let world = World::open(&args.object, None)?;
    let programs = world.programs(&args.object, args.prog.as_deref())?;
    let linked: Vec<(String, Result<Program, String>)> = programs
        .iter()
        .map(|def| (def.name.clone(), world.link(def).map_err(|e| e.to_string())))
        .collect();
    let seen = inspect(&world.object);
    let btf = btf_summary(&world);
    if args.json {
        let name = args.object.display().to_string();
        return Ok(format!("{}\n", as_json(&name, &seen, &btf, &linked)));
    }
    let mut text = seen.to_string();
    if !btf.is_empty() {
        let kinds: Vec<String> = btf.iter().map(|(k, n)| format!("{n} {k}")).collect();
        let _ = writeln!(text, "\nBTF\n  {}", kinds.join(", "));
    }
    for (name, program) in &linked {
        match program {
            Ok(p) => text += &listing(p),
            Err(why) => {
                let _ = writeln!(text, "\n{name}: not linked against the modelled kernel: {why}");
            }
        }
    }
    Ok(text)
}

/// Number of types of each kind, in order of first appearance.
fn btf_summary(world: &World) -> Vec<(String, usize)> {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    let Some(btf) = world.object.btf() else { return kinds };
    for id in btf.ids() {
        let kind = btf.kind(id).to_string();
        match kinds.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, n)) => *n += 1,
            None => kinds.push((kind, 1)),
        }
    }
    kinds
}

/// A linked program: functions, source lines and instructions.
fn listing(p: &Program) -> String {
    let mut text = format!("\n{} ({}, {} slots)\n", p.name, p.prog_type.name(), p.insns.len());
    for (i, insn) in p.insns.iter().enumerate() {
        let at = InsnIdx(i as u32);
        if let Some(f) = p.funcs.iter().find(|f| f.start == at && i != 0) {
            let _ = writeln!(text, "{}:", f.name);
        }
        if let Some(l) = p.lines.iter().find(|l| l.insn == at) {
            let _ = writeln!(text, "; {} @ {}:{}", l.text.trim(), l.file_name(), l.line);
        }
        if *insn != Insn::LdImm64Hi {
            let _ = writeln!(text, "{i:>5}: {}", disasm_op(insn, &NoNames));
        }
    }
    text
}

fn records<const N: usize>(keys: [&str; N], rows: &[[String; N]]) -> Value {
    let record = |row: &[String; N]| {
        let fields = keys.iter().zip(row);
        Value::Object(fields.map(|(k, v)| ((*k).to_owned(), json!(v))).collect())
    };
    rows.iter().map(record).collect()
}

fn as_json(
    object: &str,
    seen: &Inspection,
    btf: &[(String, usize)],
    linked: &[(String, Result<Program, String>)],
) -> Value {
    let kinds: serde_json::Map<String, Value> =
        btf.iter().map(|(k, n)| (k.clone(), json!(n))).collect();
    let code: Vec<Value> = linked.iter().map(|(name, p)| code_json(name, p)).collect();
    json!({
        "object": object,
        "byte_order": seen.byte_order,
        "license": seen.license,
        "version": seen.version,
        "func_info": seen.records[0],
        "line_info": seen.records[1],
        "programs": records(
            ["name", "section", "type", "attach_type", "target", "insns"], &seen.programs),
        "maps": records(
            ["name", "type", "key_size", "value_size", "max_entries", "flags", "extras"],
            &seen.maps),
        "globals": records(["map", "name", "type", "offset", "size"], &seen.globals),
        "functions": records(["name", "section", "slot", "insns", "linkage"], &seen.functions),
        "externs": records(["name", "kind", "binding"], &seen.externs),
        "core": records(["section", "slot", "kind", "type", "access"], &seen.core),
        "decl_tags": records(["of", "component", "tag"], &seen.decl_tags),
        "btf_types": seen.btf_types,
        "btf_kinds": kinds,
        "code": code,
    })
}

fn code_json(name: &str, program: &Result<Program, String>) -> Value {
    let p = match program {
        Ok(p) => p,
        Err(why) => return json!({ "program": name, "error": why }),
    };
    let halves = p.insns.iter().enumerate().filter(|(_, insn)| **insn != Insn::LdImm64Hi);
    let insns: Vec<Value> = halves
        .map(|(i, insn)| {
            let line = p.line_at(InsnIdx(i as u32)).map(|l| l.line);
            json!({ "at": i, "text": disasm_op(insn, &NoNames), "line": line })
        })
        .collect();
    json!({ "program": name, "insns": insns })
}
