//! What a debugger makes of debug information: the variables in scope at an address and what it
//! shows of them, and the callers by `.debug_frame`.

use std::collections::BTreeMap;
use std::ops::Range;

use gimli::Reader as _;
use gimli::{
    AttributeValue, CfaRule, DebugFrame, EndianSlice, Evaluation, EvaluationResult, Location,
    RegisterRule, RunTimeEndian, UnitOffset, UnwindContext, UnwindSection, Value, ValueType,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

pub(crate) type Reader<'a> = EndianSlice<'a, RunTimeEndian>;
type Unit<'a> = gimli::Unit<Reader<'a>>;
type Entry<'a> = gimli::DebuggingInformationEntry<Reader<'a>>;
type Expression<'a> = gimli::Expression<Reader<'a>>;

/// Deepest chain of types that is followed.
const TYPES_MAX: u32 = 32;

/// Sections of a file.
pub(crate) struct Sections {
    pub(crate) all: BTreeMap<String, Vec<u8>>,
    pub(crate) little: bool,
}

impl Sections {
    pub(crate) fn of(elf: &[u8]) -> Sections {
        let file = object::File::parse(elf).expect("an ELF file");
        let one = |s: object::Section<'_, '_>| {
            (s.name().unwrap_or_default().to_owned(), s.data().unwrap_or_default().to_vec())
        };
        Sections { all: file.sections().map(one).collect(), little: file.is_little_endian() }
    }

    /// Of an object that is not linked: each section is where it is in the file.
    pub(crate) fn relocated(elf: &[u8]) -> Sections {
        let file = object::File::parse(elf).expect("an ELF file");
        let mut out = Sections::of(elf);
        for s in file.sections() {
            let name = s.name().unwrap_or_default();
            let Some(data) = out.all.get_mut(name).filter(|_| name.starts_with(".debug_")) else {
                continue;
            };
            for (at, r) in s.relocations() {
                let object::RelocationTarget::Symbol(symbol) = r.target() else { continue };
                let Ok(symbol) = file.symbol_by_index(symbol) else { continue };
                let section = symbol.section_index().and_then(|i| file.section_by_index(i).ok());
                let is_code = section.is_some_and(|s| s.kind() == object::SectionKind::Text);
                // Each section of code has addresses of its own.
                let base = symbol.section_index().filter(|_| is_code).map_or(0, |i| i.0 << 32);
                let value = (symbol.address() + base as u64).wrapping_add_signed(r.addend());
                let at = usize::try_from(at).expect("an offset");
                match r.size() {
                    64 => data[at..at + 8].copy_from_slice(&value.to_le_bytes()),
                    32 => data[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
                    _ => {}
                }
            }
        }
        out
    }

    fn section(&self, name: &str) -> Reader<'_> {
        EndianSlice::new(self.all.get(name).map_or(&[][..], Vec::as_slice), self.order())
    }

    fn order(&self) -> RunTimeEndian {
        if self.little { RunTimeEndian::Little } else { RunTimeEndian::Big }
    }

    fn frames(&self) -> DebugFrame<Reader<'_>> {
        let mut frames = DebugFrame::from(self.section(".debug_frame"));
        frames.set_address_size(8);
        frames
    }

    pub(crate) fn read(&self) -> File<'_> {
        let load = |id: gimli::SectionId| Ok::<_, gimli::Error>(self.section(id.name()));
        let dwarf = gimli::Dwarf::load(load).expect("slices load");
        let (locals, rows, types, addrs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut file = File { little: self.little, locals, rows, types, addrs };
        let mut units = dwarf.units();
        while let Some(header) = units.next().expect("well-formed units") {
            let unit = dwarf.unit(header).expect("a well-formed unit");
            file.unit(&dwarf, &unit).expect("well-formed entries");
        }
        file
    }
}

/// What an expression reads.
pub(crate) trait Cpu {
    /// A register by its number in DWARF.
    fn register(&self, register: u16) -> Option<u64>;
    /// Memory.
    fn memory(&self, addr: u64, bytes: usize) -> Option<Vec<u8>>;
    /// The canonical frame address.
    fn cfa(&self) -> Option<u64>;
    /// Guest address of an address in the file.
    fn address(&self, written: u64) -> Option<u64>;
}

/// Where a variable is said to be.
enum Place<'a> {
    /// Nowhere.
    None,
    Constant(Vec<u8>),
    Listed(Vec<(Range<u64>, Expression<'a>)>),
}

/// A local variable or an argument.
pub(crate) struct Local<'a> {
    /// Functions it is in, outermost first: more than one, where some were inlined.
    pub(crate) scope: Vec<String>,
    pub(crate) name: String,
    /// Line of its declaration.
    pub(crate) line: u64,
    /// Where the innermost block it is in is.
    pub(crate) within: Vec<Range<u64>>,
    /// Size, when the type has one.
    pub(crate) bytes: Option<u64>,
    place: Place<'a>,
    encoding: gimli::Encoding,
    frame: Option<Expression<'a>>,
    /// Which unit it is in.
    unit: usize,
}

/// What is shown of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    OptimisedOut,
    /// Its bytes; none where a piece is nowhere.
    Bytes(Vec<Option<u8>>),
}

/// Of a file, what concerns locals.
pub(crate) struct File<'a> {
    little: bool,
    pub(crate) locals: Vec<Local<'a>>,
    /// Addresses at which a statement begins, and its line, of sequences.
    pub(crate) rows: Vec<(u64, u64)>,
    /// Base types of each unit.
    types: Vec<BTreeMap<UnitOffset, ValueType>>,
    /// Addresses of each unit, by index (`DW_OP_addrx`).
    addrs: Vec<Vec<u64>>,
}

/// A scope that is being read.
struct Scope<'a> {
    depth: isize,
    names: Vec<String>,
    within: Vec<Range<u64>>,
    frame: Option<Expression<'a>>,
}

impl<'a> File<'a> {
    fn unit(&mut self, dwarf: &gimli::Dwarf<Reader<'a>>, unit: &Unit<'a>) -> gimli::Result<()> {
        if let Some(program) = unit.line_program.clone() {
            let mut rows = program.rows();
            while let Some((_, row)) = rows.next_row()? {
                if row.is_stmt() && !row.end_sequence() {
                    self.rows.push((row.address(), row.line().map_or(0, |l| l.get())));
                }
            }
        }
        let mut types = BTreeMap::new();
        let mut scopes: Vec<Scope<'a>> = Vec::new();
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs()? {
            let depth = entry.depth();
            while scopes.last().is_some_and(|s| s.depth >= depth) {
                scopes.pop();
            }
            match entry.tag() {
                gimli::DW_TAG_subprogram
                | gimli::DW_TAG_inlined_subroutine
                | gimli::DW_TAG_lexical_block => {
                    let mut within = Vec::new();
                    let mut ranges = dwarf.die_ranges(unit, entry)?;
                    while let Some(r) = ranges.next()? {
                        within.push(r.begin..r.end);
                    }
                    let last = scopes.last();
                    let mut names = last.map_or(Vec::new(), |s| s.names.clone());
                    if entry.tag() != gimli::DW_TAG_lexical_block {
                        names.push(name(dwarf, unit, entry)?);
                    }
                    let frame = match entry.attr_value(gimli::DW_AT_frame_base) {
                        Some(AttributeValue::Exprloc(e)) => Some(e),
                        _ => last.and_then(|s| s.frame),
                    };
                    scopes.push(Scope { depth, names, within, frame });
                }
                gimli::DW_TAG_variable | gimli::DW_TAG_formal_parameter => {
                    let Some(scope) = scopes.last().filter(|s| !s.within.is_empty()) else {
                        continue;
                    };
                    let local = local(dwarf, unit, entry, (scope, self.types.len()))?;
                    self.locals.push(local);
                }
                gimli::DW_TAG_base_type => {
                    let bytes = entry.attr_value(gimli::DW_AT_byte_size);
                    if let (Some(AttributeValue::Encoding(e)), Some(bytes)) = (
                        entry.attr_value(gimli::DW_AT_encoding),
                        bytes.and_then(|b| b.udata_value()),
                    ) && let Some(ty) = ValueType::from_encoding(e, bytes)
                    {
                        types.insert(entry.offset(), ty);
                    }
                }
                _ => {}
            }
        }
        self.types.push(types);
        let indexed = (0..).map_while(|n| dwarf.address(unit, gimli::DebugAddrIndex(n)).ok());
        self.addrs.push(indexed.collect());
        Ok(())
    }

    /// Variables in scope at an address.
    pub(crate) fn in_scope(&self, pc: u64) -> impl Iterator<Item = &Local<'a>> {
        self.locals.iter().filter(move |l| l.within.iter().any(|r| r.contains(&pc)))
    }

    /// Whether a variable has a value at an address. What it was when the function was entered
    /// nobody knows of a function that the kernel calls.
    pub(crate) fn is_known(&self, local: &Local<'a>, pc: u64) -> bool {
        match &local.place {
            Place::None => false,
            Place::Constant(_) => true,
            Place::Listed(list) => {
                let mut here = list.iter().filter(|(r, e)| r.contains(&pc) && !e.0.is_empty());
                here.any(|(_, e)| {
                    let mut ops = e.operations(local.encoding);
                    let entry = |op| matches!(op, gimli::Operation::EntryValue { .. });
                    !std::iter::from_fn(|| ops.next().ok().flatten()).any(entry)
                })
            }
        }
    }

    /// What is shown of a variable at an address.
    pub(crate) fn shown(&self, local: &Local<'a>, pc: u64, cpu: &dyn Cpu) -> Shown {
        match &local.place {
            Place::None => Shown::OptimisedOut,
            Place::Constant(bytes) => Shown::Bytes(bytes.iter().copied().map(Some).collect()),
            Place::Listed(list) => {
                let here = list.iter().find(|(r, _)| r.contains(&pc));
                here.and_then(|(_, e)| self.value(local, *e, cpu)).unwrap_or(Shown::OptimisedOut)
            }
        }
    }

    /// Whether a variable is told by an offset upwards in the frame, at an address: LLVM adds the
    /// size of the frame to it.
    pub(crate) fn is_lifted(&self, local: &Local<'a>, pc: u64) -> bool {
        let Place::Listed(list) = &local.place else { return false };
        let mut here = list.iter().filter(|(r, _)| r.contains(&pc));
        here.any(|(_, e)| {
            let mut ops = e.operations(local.encoding);
            std::iter::from_fn(|| ops.next().ok().flatten()).any(|op| match op {
                gimli::Operation::FrameOffset { offset } => offset >= 0,
                gimli::Operation::RegisterOffset { register, offset, .. } => {
                    register.0 == 10 && offset >= 0
                }
                _ => false,
            })
        })
    }

    fn value(&self, local: &Local<'a>, e: Expression<'a>, cpu: &dyn Cpu) -> Option<Shown> {
        let size = usize::try_from(local.bytes?).ok()?;
        let base = |at| self.types[local.unit].get(&at).copied();
        let addr = |n: usize| self.addrs[local.unit].get(n).copied();
        let frame = || {
            let pieces = run(local.frame?, local.encoding, cpu, (&|| None, &base, &addr))?;
            match pieces.first()?.location {
                Location::Register { register } => cpu.register(register.0),
                Location::Address { address } => Some(address),
                Location::Value { value } => value.to_u64(u64::MAX).ok(),
                _ => None,
            }
        };
        let pieces = run(e, local.encoding, cpu, (&frame, &base, &addr))?;
        let whole = pieces.len() == 1 && pieces[0].size_in_bits.is_none();
        let mut out = Vec::new();
        for piece in pieces {
            let bytes = match piece.size_in_bits {
                Some(bits) => usize::try_from(bits / 8).ok()?,
                None => size,
            };
            match piece.location {
                Location::Empty if whole => return None,
                Location::Empty => out.extend(vec![None; bytes]),
                Location::Register { register } => {
                    out.extend(self.low(cpu.register(register.0)?, bytes)?);
                }
                Location::Value { value } => {
                    out.extend(self.low(value.to_u64(u64::MAX).ok()?, bytes)?);
                }
                Location::Address { address } => {
                    out.extend(cpu.memory(address, bytes)?.into_iter().map(Some));
                }
                Location::Bytes { value } => {
                    out.extend(value.slice().iter().copied().map(Some));
                }
                _ => return None,
            }
        }
        out.truncate(size);
        out.iter().any(Option::is_some).then_some(Shown::Bytes(out))
    }

    /// The low bytes of a register, in order of memory.
    fn low(&self, value: u64, bytes: usize) -> Option<Vec<Option<u8>>> {
        let all = if self.little { value.to_le_bytes() } else { value.to_be_bytes() };
        let part = if self.little { all.get(..bytes)? } else { all.get(8 - bytes.min(8)..)? };
        (part.len() == bytes).then(|| part.iter().copied().map(Some).collect())
    }
}

fn local<'a>(
    dwarf: &gimli::Dwarf<Reader<'a>>,
    unit: &Unit<'a>,
    entry: &Entry<'a>,
    (scope, n): (&Scope<'a>, usize),
) -> gimli::Result<Local<'a>> {
    let encoding = unit.encoding();
    let line = attribute(unit, entry, gimli::DW_AT_decl_line)?.and_then(|v| v.udata_value());
    let bytes = size_of(unit, entry)?;
    let place = match entry.attr_value(gimli::DW_AT_location) {
        Some(AttributeValue::Exprloc(e)) if e.0.is_empty() => Place::None,
        Some(AttributeValue::Exprloc(e)) => Place::Listed(vec![(0..u64::MAX, e)]),
        Some(value) => {
            let mut list = Vec::new();
            if let Some(mut locations) = dwarf.attr_locations(unit, value)? {
                while let Some(l) = locations.next()? {
                    list.push((l.range.begin..l.range.end, l.data));
                }
            }
            Place::Listed(list)
        }
        None => match entry.attr_value(gimli::DW_AT_const_value) {
            Some(value) => constant(value, bytes.unwrap_or(8)).map_or(Place::None, Place::Constant),
            None => Place::None,
        },
    };
    Ok(Local {
        scope: scope.names.clone(),
        name: name(dwarf, unit, entry)?,
        line: line.unwrap_or(0),
        within: scope.within.clone(),
        bytes,
        place,
        encoding,
        frame: scope.frame,
        unit: n,
    })
}

fn constant(value: AttributeValue<Reader<'_>>, bytes: u64) -> Option<Vec<u8>> {
    let n = value.udata_value().or_else(|| value.sdata_value().map(i64::cast_unsigned))?;
    Some(n.to_le_bytes().get(..usize::try_from(bytes).ok()?)?.to_vec())
}

/// An attribute, or that of the entry it stands for.
fn attribute<'a>(
    unit: &Unit<'a>,
    entry: &Entry<'a>,
    name: gimli::DwAt,
) -> gimli::Result<Option<AttributeValue<Reader<'a>>>> {
    if let Some(value) = entry.attr_value(name) {
        return Ok(Some(value));
    }
    for origin in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
        if let Some(AttributeValue::UnitRef(at)) = entry.attr_value(origin) {
            return attribute(unit, &unit.entry(at)?, name);
        }
    }
    Ok(None)
}

fn name<'a>(
    dwarf: &gimli::Dwarf<Reader<'a>>,
    unit: &Unit<'a>,
    entry: &Entry<'a>,
) -> gimli::Result<String> {
    let value = attribute(unit, entry, gimli::DW_AT_name)?;
    let text = value.and_then(|v| dwarf.attr_string(unit, v).ok());
    Ok(text.map_or(String::new(), |t| t.to_string_lossy().into_owned()))
}

fn size_of<'a>(unit: &Unit<'a>, entry: &Entry<'a>) -> gimli::Result<Option<u64>> {
    let Some(mut ty) = attribute(unit, entry, gimli::DW_AT_type)? else { return Ok(None) };
    let mut times = 1;
    for _ in 0..TYPES_MAX {
        let AttributeValue::UnitRef(at) = ty else { return Ok(None) };
        let entry = unit.entry(at)?;
        if let Some(bytes) = entry.attr_value(gimli::DW_AT_byte_size) {
            return Ok(bytes.udata_value().map(|b| b * times));
        }
        if entry.tag() == gimli::DW_TAG_pointer_type {
            return Ok(Some(8 * times));
        }
        if entry.tag() == gimli::DW_TAG_array_type {
            let mut tree = unit.entries_tree(Some(at))?;
            let mut children = tree.root()?.children();
            while let Some(child) = children.next()? {
                let count = child.entry().attr_value(gimli::DW_AT_count);
                let Some(count) = count.and_then(|c| c.udata_value()) else { return Ok(None) };
                times *= count;
            }
        }
        let Some(next) = entry.attr_value(gimli::DW_AT_type) else { return Ok(None) };
        ty = next;
    }
    Ok(None)
}

/// The base type at a place in a unit.
type BaseTypes<'a> = &'a dyn Fn(UnitOffset) -> Option<ValueType>;
/// Addresses by index.
type Addresses<'a> = &'a dyn Fn(usize) -> Option<u64>;

/// Evaluates an expression.
fn run<'a>(
    e: Expression<'a>,
    encoding: gimli::Encoding,
    cpu: &dyn Cpu,
    (frame, base, addr): (&dyn Fn() -> Option<u64>, BaseTypes<'_>, Addresses<'_>),
) -> Option<Vec<gimli::Piece<Reader<'a>>>> {
    let mut eval: Evaluation<Reader<'a>> = e.evaluation(encoding);
    let mut result = eval.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => return Some(eval.result()),
            EvaluationResult::RequiresRegister { register, .. } => {
                eval.resume_with_register(Value::Generic(cpu.register(register.0)?))
            }
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let bytes = cpu.memory(address, size.into())?;
                eval.resume_with_memory(Value::Generic(number(&bytes, e.0.endian())))
            }
            EvaluationResult::RequiresFrameBase => eval.resume_with_frame_base(frame()?),
            EvaluationResult::RequiresCallFrameCfa => eval.resume_with_call_frame_cfa(cpu.cfa()?),
            EvaluationResult::RequiresRelocatedAddress(at) => {
                eval.resume_with_relocated_address(cpu.address(at)?)
            }
            EvaluationResult::RequiresIndexedAddress { index, .. } => {
                eval.resume_with_indexed_address(cpu.address(addr(index.0)?)?)
            }
            EvaluationResult::RequiresBaseType(UnitOffset(0)) => {
                eval.resume_with_base_type(ValueType::Generic)
            }
            EvaluationResult::RequiresBaseType(at) => eval.resume_with_base_type(base(at)?),
            _ => return None,
        }
        .ok()?;
    }
}

/// The number that so many bytes are.
fn number(bytes: &[u8], order: RunTimeEndian) -> u64 {
    let digits = |n: u64, b: &u8| n << 8 | u64::from(*b);
    match order {
        RunTimeEndian::Little => bytes.iter().rev().fold(0, digits),
        RunTimeEndian::Big => bytes.iter().fold(0, digits),
    }
}

/// Registers of a frame, by number in DWARF.
pub(crate) type Registers = BTreeMap<u16, u64>;

/// A caller.
pub(crate) struct Caller {
    pub(crate) regs: Registers,
    /// Where it goes on; none when there is no caller.
    pub(crate) pc: Option<u64>,
}

/// Memory, as much as there is.
pub(crate) type Memory<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

/// The caller of a frame. The stack pointer (`sp`) is the canonical frame address where no rule
/// says otherwise.
pub(crate) fn unwind(
    sections: &Sections,
    (pc, regs): (u64, &Registers),
    sp: u16,
    memory: Memory<'_>,
) -> Option<Caller> {
    let (frames, order) = (sections.frames(), sections.order());
    let bases = gimli::BaseAddresses::default();
    let mut context = UnwindContext::new();
    let by = DebugFrame::cie_from_offset;
    let row = frames.unwind_info_for_address(&bases, &mut context, pc, by).ok()?.clone();
    let cie = frames.fde_for_address(&bases, pc, by).ok()?.cie().clone();
    let ra = cie.return_address_register();
    let word = |at| Some(number(&memory(at, 8)?, order));
    let frame = Frame { regs, memory };
    let place = |e: &gimli::UnwindExpression<usize>| {
        let pieces =
            run(e.get(&frames).ok()?, cie.encoding(), &frame, (&|| None, &|_| None, &|_| None))?;
        match pieces.first()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            regs.get(&register.0)?.wrapping_add_signed(*offset)
        }
        CfaRule::Expression(e) => place(e)?,
    };
    let mut out = regs.clone();
    out.insert(sp, cfa);
    for (register, rule) in row.registers() {
        let value = match rule {
            RegisterRule::SameValue => regs.get(&register.0).copied(),
            RegisterRule::Offset(off) => word(cfa.wrapping_add_signed(*off)),
            RegisterRule::ValOffset(off) => Some(cfa.wrapping_add_signed(*off)),
            RegisterRule::Register(other) => regs.get(&other.0).copied(),
            RegisterRule::Expression(e) => place(e).and_then(word),
            _ => None,
        };
        match value {
            Some(value) => out.insert(register.0, value),
            None => out.remove(&register.0),
        };
    }
    let pc = match row.register(ra) {
        Some(RegisterRule::Undefined) => None,
        _ => out.get(&ra.0).copied(),
    };
    Some(Caller { regs: out, pc })
}

struct Frame<'a> {
    regs: &'a Registers,
    memory: Memory<'a>,
}

impl Cpu for Frame<'_> {
    fn register(&self, register: u16) -> Option<u64> {
        self.regs.get(&register).copied()
    }

    fn memory(&self, addr: u64, bytes: usize) -> Option<Vec<u8>> {
        (self.memory)(addr, bytes)
    }

    fn cfa(&self) -> Option<u64> {
        None
    }

    fn address(&self, written: u64) -> Option<u64> {
        Some(written)
    }
}
