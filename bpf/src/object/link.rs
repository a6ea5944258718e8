//! Linking: one program with every function it reaches, relocated, as `BPF_PROG_LOAD` takes it.
//!
//! The order of subprograms is that of libbpf's `bpf_object__reloc_code`: a function is appended
//! when the first call to it is met, and its own calls are followed before the caller's next one.

use std::collections::BTreeMap;

use super::core_reloc;
use super::error::ObjectError;
use super::externs::{Extern, ExternKind, Kconfig, Ksyms, essential_name};
use super::reloc::{CALL, LD_IMM64, Target};
use super::{Object, ProgramDef, core_match, maps::MapOrigin};
use crate::btf::{Body, Btf, Kind, TypeId};
use crate::insn::{InsnIdx, Slot, decode_all};
use crate::program::{Func, Line, Program};

/// `BPF_PSEUDO_CALL`, also the mark of a call to be relocated.
const PSEUDO_CALL: u8 = 1;
/// `BPF_PSEUDO_KFUNC_CALL`.
const PSEUDO_KFUNC_CALL: u8 = 2;
/// `BPF_PSEUDO_BTF_ID`.
const PSEUDO_BTF_ID: u8 = 3;
/// `BPF_PSEUDO_FUNC`.
const PSEUDO_FUNC: u8 = 4;
/// `BPF_PSEUDO_MAP_IDX`.
const PSEUDO_MAP_IDX: u8 = 5;
/// `BPF_PSEUDO_MAP_IDX_VALUE`.
const PSEUDO_MAP_IDX_VALUE: u8 = 6;
/// libbpf's `POISON_CALL_KFUNC_BASE`: a call of a missing weak kfunc, refused when reachable.
pub(super) const POISON_KFUNC: i32 = 2_002_000_000;
/// `BPF_COMPLEXITY_LIMIT_INSNS`: no program can be longer.
const MAX_INSNS: usize = 1_000_000;

/// What a program is linked against.
#[derive(Clone, Copy)]
pub struct LinkEnv<'a> {
    /// Types of the kernel it will run on.
    pub target_btf: &'a Btf,
    /// That kernel's configuration.
    pub kconfig: &'a Kconfig,
    /// That kernel's symbols.
    pub ksyms: &'a dyn Ksyms,
}

impl std::fmt::Debug for LinkEnv<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkEnv").field("kconfig", self.kconfig).finish_non_exhaustive()
    }
}

/// One function placed in the program.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub(super) func: usize,
    pub(super) at: u32,
}

pub(super) struct Linker<'a> {
    obj: &'a Object,
    /// None to find out where the functions of a program come to be, no more.
    env: Option<&'a LinkEnv<'a>>,
    /// Function of the program.
    entry: usize,
    out: Vec<Slot>,
    placed: Vec<Placed>,
    /// Start of each placed function by function index.
    start_of: BTreeMap<usize, u32>,
    /// CO-RE candidates by (local root, essential name).
    cands: Option<core_match::Candidates<'a>>,
}

impl Object {
    /// Links one program: subprograms, CO-RE, relocations, func and line info.
    ///
    /// # Errors
    /// What cannot be resolved, with section, symbol and offset.
    pub fn link(&self, prog: &ProgramDef, env: &LinkEnv<'_>) -> Result<Program, ObjectError> {
        let error = |what: &str| ObjectError::new(&prog.section, what).symbol(&prog.name);
        let Some(sec) = &prog.sec else {
            let hint = super::sec::lookup(&prog.section).err().map_or(String::new(), |e| e.hint);
            return Err(error("the section name gives no program type").hint(hint));
        };
        let l = self.gathered(prog, Some(env))?;
        let insns = decode_all(&l.out).map_err(|e| {
            let (func, at) = l.locate(e.at.0);
            let f = &self.functions[func];
            ObjectError::new(&f.section, e.message)
                .symbol(&f.name)
                .offset(u64::from(f.start + at) * 8)
                .hint("compile for the BPF target with a supported -mcpu")
        })?;
        Ok(Program {
            name: prog.name.clone(),
            section: prog.section.clone(),
            prog_type: sec.prog_type,
            attach_type: sec.attach_type,
            flags: sec.flags,
            attach_to: sec.target.clone(),
            license: self.license.clone(),
            insns,
            funcs: l.func_info(),
            lines: l.line_info(),
        })
    }

    /// What libbpf asks of the kernel before it loads the first program
    /// (`bpf_object__resolve_externs`): every extern that is not weak is there, whether or not a
    /// program that is loaded uses it.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_externs(&self, env: &LinkEnv<'_>) -> Result<(), ObjectError> {
        self.kconfig_contents(env.kconfig)?;
        for e in self.externs.iter().filter(|e| !matches!(e.kind, ExternKind::Kconfig { .. })) {
            self.resolve(e, env).map_err(|(what, hint)| ObjectError::new("", what).hint(hint))?;
        }
        Ok(())
    }

    /// Address or id in the target BTF of a kernel symbol; 0 when it is weak and missing. The
    /// error is what is wrong, and what to do.
    fn resolve(&self, e: &Extern, env: &LinkEnv<'_>) -> Result<u64, (String, &'static str)> {
        let (kind, local, what) = match e.kind {
            ExternKind::Variable { ty: 0 } => (None, 0, "kernel symbol"),
            ExternKind::Variable { ty } => (Some(Kind::Var), ty, "variable"),
            ExternKind::Function { proto } => (Some(Kind::Func), proto, "function"),
            ExternKind::Kconfig { .. } => return Ok(0),
        };
        let target = env.target_btf;
        let name = essential_name(&e.name);
        let found = match kind {
            None => env.ksyms.address(&e.name),
            Some(kind) => target.find(name, kind).map(u64::from),
        };
        let Some(found) = found else {
            let hint = "declare it __weak and test it, or run on a kernel that has it";
            let text = format!("extern '{}': no such {what} in the kernel", e.name);
            return if e.weak { Ok(0) } else { Err((text, hint)) };
        };
        let (Some(btf), Some(_)) = (&self.btf, kind) else { return Ok(found) };
        let theirs = match target.body(found as TypeId) {
            Body::Func { proto, .. } => *proto,
            Body::Var { ty, .. } => *ty,
            _ => 0,
        };
        if core_match::types_are_compat(btf, local, target, theirs) {
            return Ok(found);
        }
        let text = format!("extern '{}': its type differs from the kernel's {what}", e.name);
        // libbpf takes a weak function of another type for a missing one, but not a variable.
        let missing = e.weak && kind == Some(Kind::Func);
        if missing { Ok(0) } else { Err((text, "declare it as the kernel's BTF does")) }
    }
}

impl Object {
    fn gathered<'a>(
        &'a self,
        prog: &ProgramDef,
        env: Option<&'a LinkEnv<'a>>,
    ) -> Result<Linker<'a>, ObjectError> {
        let mut l = Linker {
            obj: self,
            env,
            entry: prog.func,
            out: Vec::new(),
            placed: Vec::new(),
            start_of: BTreeMap::new(),
            cands: env.map(|e| core_match::Candidates::new(e.target_btf)),
        };
        l.gather(prog.func)?;
        l.exception_callback(prog)?;
        Ok(l)
    }

    /// Where the functions of a program come to be; that depends on no kernel.
    pub(super) fn layout(&self, prog: &ProgramDef) -> Result<Vec<Placed>, ObjectError> {
        self.gathered(prog, None).map(|l| l.placed)
    }
}

impl Linker<'_> {
    /// Function and slot inside it of a slot of the program.
    fn locate(&self, at: u32) -> (usize, u32) {
        let found = self.placed.iter().rev().find(|p| p.at <= at);
        found.map_or((0, 0), |p| (p.func, at - p.at))
    }

    fn error(&self, func: usize, slot: u32, what: impl Into<String>) -> ObjectError {
        let f = &self.obj.functions[func];
        ObjectError::new(&f.section, what).symbol(&f.name).offset(u64::from(f.start + slot) * 8)
    }

    /// Copies a function to the end of the program, CO-RE applied.
    fn place(&mut self, func: usize) -> Result<u32, ObjectError> {
        let f = &self.obj.functions[func];
        let text = &self.obj.texts[f.text];
        let range = f.start as usize..(f.start + f.len) as usize;
        let at = self.out.len() as u32;
        if self.out.len() + range.len() > MAX_INSNS {
            return Err(self.error(func, 0, "the program exceeds a million instructions"));
        }
        let mut slots = text.slots[range].to_vec();
        if let (Some(btf), Some(cands)) = (&self.obj.btf, &mut self.cands) {
            let records = text.records.core.iter();
            for r in records.filter(|r| (f.start..f.start + f.len).contains(&r.slot)) {
                let slot = r.slot - f.start;
                core_reloc::apply(btf, cands, r, self.obj.endian, &mut slots, slot).map_err(
                    |e| {
                        ObjectError::new(&f.section, e.what)
                            .symbol(&f.name)
                            .offset(u64::from(r.slot) * 8)
                            .hint(e.hint)
                    },
                )?;
            }
        }
        self.out.extend(slots);
        self.placed.push(Placed { func, at });
        self.start_of.insert(func, at);
        Ok(at)
    }

    /// Places `entry` and, depth first, all it calls; then every call is patched.
    fn gather(&mut self, entry: usize) -> Result<(), ObjectError> {
        self.place(entry)?;
        // (function, next slot to look at): the recursion of `bpf_object__reloc_code`.
        let mut stack = vec![(entry, 0u32)];
        while let Some((func, slot)) = stack.pop() {
            let f = &self.obj.functions[func];
            if slot >= f.len {
                continue;
            }
            let at = self.start_of[&func] + slot;
            let wide = self.out[at as usize].code == LD_IMM64;
            stack.push((func, slot + if wide { 2 } else { 1 }));
            if wide && slot + 1 >= f.len {
                return Err(self.error(func, slot, "a 64-bit load is cut in half"));
            }
            let target = self.obj.texts[f.text].relocs.get(&(f.start + slot)).copied();
            if let Some(callee) = self.callee(func, slot, at, target)? {
                let start = match self.start_of.get(&callee) {
                    Some(start) => *start,
                    None => {
                        let start = self.place(callee)?;
                        stack.push((callee, 0));
                        start
                    }
                };
                self.out[at as usize].imm = start.wrapping_sub(at + 1).cast_signed();
                continue;
            }
            match target {
                Some(Target::Map(i)) => self.load_map(at, i, None),
                Some(Target::MapValue(i, off)) => self.load_map(at, i, Some(off)),
                Some(Target::Extern(i)) => self.load_extern(func, slot, at, i)?,
                Some(Target::JumpTable(off, _)) => self.load_jump_table(at, off),
                Some(Target::Text(..)) | None => {}
            }
        }
        Ok(())
    }

    /// The function that a call or a function-address load refers to.
    fn callee(
        &mut self,
        func: usize,
        slot: u32,
        at: u32,
        target: Option<Target>,
    ) -> Result<Option<usize>, ObjectError> {
        let f = &self.obj.functions[func];
        let insn = self.out[at as usize];
        let (text, dest) = match target {
            Some(Target::Text(text, off)) if insn.code == CALL => {
                (text, i64::try_from(off / 8).unwrap_or(i64::MAX / 2) + i64::from(insn.imm) + 1)
            }
            Some(Target::Text(text, off)) => {
                self.out[at as usize].src = PSEUDO_FUNC;
                self.out[at as usize + 1].imm = 0;
                let off = i64::try_from(off).unwrap_or(i64::MAX / 2);
                (text, (off + i64::from(insn.imm)) / 8)
            }
            None if insn.code == CALL && insn.src == PSEUDO_CALL => {
                (f.text, i64::from(f.start + slot) + i64::from(insn.imm) + 1)
            }
            None if insn.code == LD_IMM64 && insn.src == PSEUDO_FUNC => {
                (f.text, i64::from(f.start + slot) + i64::from(insn.imm) + 1)
            }
            _ => return Ok(None),
        };
        let found = self.obj.functions.iter().position(|g| {
            g.text == text && (i64::from(g.start)..i64::from(g.start + g.len)).contains(&dest)
        });
        match found {
            Some(g) if i64::from(self.obj.functions[g].start) == dest => Ok(Some(g)),
            _ => {
                let section = &self.obj.texts[text].name;
                let what = format!("no function starts at instruction {dest} of '{section}'");
                Err(self.error(func, slot, what).hint("call a function by its name"))
            }
        }
    }

    fn load_map(&mut self, at: u32, map: usize, value_off: Option<u64>) {
        let at = at as usize;
        let addend = self.out[at].imm;
        self.out[at].imm = map as i32;
        match value_off {
            Some(off) => {
                self.out[at].src = PSEUDO_MAP_IDX_VALUE;
                self.out[at + 1].imm = (off as i32).wrapping_add(addend);
            }
            None => {
                self.out[at].src = PSEUDO_MAP_IDX;
                self.out[at + 1].imm = 0;
            }
        }
    }

    /// The address of the table's first entry.
    fn load_jump_table(&mut self, at: u32, off: u64) {
        if let Some(map) = self.obj.jump_table_maps.get(&(self.entry, off)) {
            self.out[at as usize].imm = 0;
            self.load_map(at, *map, Some(0));
        }
    }

    fn load_extern(
        &mut self,
        func: usize,
        slot: u32,
        at: u32,
        index: usize,
    ) -> Result<(), ObjectError> {
        if self.env.is_none() {
            return Ok(());
        }
        let e = &self.obj.externs[index];
        match e.kind {
            ExternKind::Kconfig { offset, .. } => {
                let map = self.obj.maps.iter().position(|m| m.origin == MapOrigin::Kconfig);
                let map = map.expect("a .kconfig extern makes its map");
                self.out[at as usize].imm = 0;
                self.load_map(at, map, Some(u64::from(offset)));
                Ok(())
            }
            ExternKind::Variable { ty } => {
                let value = self.resolved(func, slot, index)?;
                let src = if ty == 0 || value == 0 { 0 } else { PSEUDO_BTF_ID };
                self.set_imm64(at, src, value);
                Ok(())
            }
            ExternKind::Function { .. } => {
                let id = self.resolved(func, slot, index)?;
                if self.out[at as usize].code == LD_IMM64 {
                    self.set_imm64(at, if id == 0 { 0 } else { PSEUDO_BTF_ID }, id);
                    return Ok(());
                }
                let insn = &mut self.out[at as usize];
                insn.src = if id == 0 { 0 } else { PSEUDO_KFUNC_CALL };
                insn.imm = if id == 0 { POISON_KFUNC + index as i32 } else { id as i32 };
                Ok(())
            }
        }
    }

    fn resolved(&self, func: usize, slot: u32, index: usize) -> Result<u64, ObjectError> {
        let Some(env) = self.env else { return Ok(0) };
        let found = self.obj.resolve(&self.obj.externs[index], env);
        found.map_err(|(what, hint)| self.error(func, slot, what).hint(hint))
    }

    fn set_imm64(&mut self, at: u32, src: u8, value: u64) {
        let at = at as usize;
        self.out[at].src = src;
        self.out[at].imm = (value as u32).cast_signed();
        self.out[at + 1].imm = ((value >> 32) as u32).cast_signed();
    }

    /// `exception_callback:NAME` tags of the entry name a function that is called by no insn.
    fn exception_callback(&mut self, prog: &ProgramDef) -> Result<(), ObjectError> {
        let Some(btf) = &self.obj.btf else { return Ok(()) };
        let Some(id) = super::btf_func(btf, &prog.name) else { return Ok(()) };
        let tag = btf.decl_tags(id).find_map(|(_, t)| t.strip_prefix("exception_callback:"));
        let Some(name) = tag else { return Ok(()) };
        let found = self.obj.functions.iter().position(|f| f.name == name);
        match found {
            Some(f) if self.start_of.contains_key(&f) => Ok(()),
            Some(f) => self.gather(f),
            None => Err(ObjectError::new(&prog.section, format!("no exception callback '{name}'"))
                .symbol(&prog.name)),
        }
    }

    fn func_info(&self) -> Vec<Func> {
        let Some(btf) = &self.obj.btf else { return Vec::new() };
        let info = |p: &Placed| {
            let f = &self.obj.functions[p.func];
            let records = &self.obj.texts[f.text].records.funcs;
            let found = records.binary_search_by_key(&f.start, |r| r.0);
            let type_id =
                found.ok().map(|i| records[i].1).or_else(|| super::btf_func(btf, &f.name));
            let type_id = type_id.filter(|id| btf.kind(*id) == Kind::Func).unwrap_or(0);
            Func { start: InsnIdx(p.at), type_id, name: f.name.clone(), global: f.global }
        };
        let mut out: Vec<Func> = self.placed.iter().map(info).collect();
        out.sort_by_key(|f| f.start);
        out
    }

    fn line_info(&self) -> Vec<Line> {
        let Some(btf) = &self.obj.btf else { return Vec::new() };
        let mut out = Vec::new();
        for p in &self.placed {
            let f = &self.obj.functions[p.func];
            let lines = &self.obj.texts[f.text].records.lines;
            let from = lines.partition_point(|l| l.slot < f.start);
            let within = lines[from..].iter().take_while(|l| l.slot < f.start + f.len);
            out.extend(within.map(|l| Line {
                insn: InsnIdx(p.at + l.slot - f.start),
                file: btf.str(l.file_off).to_owned(),
                text: btf.str(l.text_off).chars().take(512).collect(),
                line: l.line,
                col: l.col,
            }));
        }
        out.sort_by_key(|l| l.insn);
        out
    }
}
