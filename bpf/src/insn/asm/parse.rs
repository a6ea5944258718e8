//! One instruction of assembler text.
use crate::insn::disasm::{alu_text, end_text, jmp_text};
use crate::insn::{AluOp, AtomicOp, Call, Cast, EndianOp, Imm64, JmpOp};
use crate::insn::{Insn, Reg, Size, Src, Width, helper_id, helper_name};

/// What is wrong at a byte of the line.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) byte: usize,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

type Res<T> = Result<T, Error>;

/// A name the instruction refers to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) byte: usize,
}

type Parsed = (Insn, Option<Target>);

/// Operators, longest first so that `s>>=` is not read as `s>`.
const ALU: [AluOp; 14] = [
    AluOp::Arsh,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::SDiv,
    AluOp::SMod,
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Mod,
    AluOp::Or,
    AluOp::And,
    AluOp::Xor,
    AluOp::Mov,
];

/// Conditions, longest first.
const JMP: [JmpOp; 11] = [
    JmpOp::Sge,
    JmpOp::Sle,
    JmpOp::Sgt,
    JmpOp::Slt,
    JmpOp::Ge,
    JmpOp::Le,
    JmpOp::Eq,
    JmpOp::Ne,
    JmpOp::Gt,
    JmpOp::Lt,
    JmpOp::Set,
];

/// Functions of the fetching operations, without `atomic_` or `atomic64_`.
const FETCH: [(&str, AtomicOp); 5] = [
    ("fetch_add", AtomicOp::FetchAdd),
    ("fetch_or", AtomicOp::FetchOr),
    ("fetch_and", AtomicOp::FetchAnd),
    ("fetch_xor", AtomicOp::FetchXor),
    ("xchg", AtomicOp::Xchg),
];

const REGISTERS: &str = "registers are r0 to r10, or w0 to w10 for their lower halves";

/// `12`, `-3`, `0x1f`, `-0x10`.
pub(super) fn number(word: &str) -> Option<i128> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u64>().ok()?,
        None => return None,
    };
    Some(if negative { -i128::from(value) } else { i128::from(value) })
}

const fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$')
}

/// A place in one line of code.
pub(super) struct Cursor<'a> {
    text: &'a str,
    byte: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        let mut c = Cursor { text, byte: 0 };
        c.skip();
        c
    }

    pub(super) fn byte(&self) -> usize {
        self.byte
    }

    pub(super) fn at_end(&self) -> bool {
        self.byte >= self.text.len()
    }

    fn rest(&self) -> &'a str {
        &self.text[self.byte..]
    }

    fn skip(&mut self) {
        self.byte = self.text.len() - self.rest().trim_start().len();
    }

    fn fail<T>(&self, message: impl Into<String>, hint: Option<&str>) -> Res<T> {
        fail_at(self.byte, message, hint)
    }

    /// Takes `token` if it is next; a token that ends in a letter must end there.
    fn eat(&mut self, token: &str) -> bool {
        let Some(after) = self.rest().strip_prefix(token) else { return false };
        let word = token.bytes().last().is_some_and(is_word);
        if word && after.bytes().next().is_some_and(is_word) {
            return false;
        }
        self.byte += token.len();
        self.skip();
        true
    }

    fn expect(&mut self, token: &str) -> Res<()> {
        if self.eat(token) {
            return Ok(());
        }
        let found = self.rest().trim_end();
        let found = if found.is_empty() { "the end of the line".into() } else { quote(found) };
        self.fail(format!("`{token}` expected, found {found}"), None)
    }

    /// The next word without taking it; empty when something else is next.
    fn peek(&self) -> &'a str {
        let end = self.rest().bytes().position(|b| !is_word(b)).unwrap_or(self.rest().len());
        &self.rest()[..end]
    }

    fn word(&mut self) -> &'a str {
        let w = self.peek();
        self.byte += w.len();
        self.skip();
        w
    }

    /// Takes `NAME:`.
    pub(super) fn label(&mut self) -> Option<(&'a str, usize)> {
        let (name, start) = (self.peek(), self.byte);
        if name.is_empty() || !self.rest()[name.len()..].starts_with(':') {
            return None;
        }
        self.byte += name.len() + 1;
        self.skip();
        Some((name, start))
    }

    /// A number with its sign, which may stand apart (`+ 4`).
    fn number(&mut self) -> Res<i128> {
        let start = self.byte;
        let sign = if self.eat("-") {
            "-"
        } else {
            self.eat("+");
            ""
        };
        let word = self.word();
        match number(&format!("{sign}{word}")) {
            Some(v) if !word.is_empty() => Ok(v),
            _ => fail_at(start, format!("a number expected, found {}", quote(word)), None),
        }
    }

    fn ranged<T: TryFrom<i128>>(&mut self, what: &str) -> Res<T> {
        let start = self.byte;
        let v = self.number()?;
        T::try_from(v).or_else(|_| fail_at(start, format!("{v} does not fit in {what}"), None))
    }

    fn imm32(&mut self) -> Res<i32> {
        let start = self.byte;
        let v = self.number()?;
        let hint = Some("immediates are sign-extended; a wider one is loaded with `rN = ... ll`");
        let m = format!("{v} does not fit in a signed 32-bit immediate");
        i32::try_from(v).or_else(|_| fail_at(start, m, hint))
    }

    /// An immediate that may be written as the 32-bit pattern in hex, as conditions are printed.
    fn pattern32(&mut self) -> Res<i32> {
        let start = self.byte;
        let hex = self.rest().starts_with("0x");
        let v = self.number()?;
        let pattern = u32::try_from(v).ok().filter(|_| hex).map(u32::cast_signed);
        match pattern.or_else(|| i32::try_from(v).ok()) {
            Some(v) => Ok(v),
            None => fail_at(start, format!("{v} does not fit in a signed 32-bit immediate"), None),
        }
    }

    fn peek_reg(&self) -> Option<(Width, Reg)> {
        let w = self.peek();
        let width = match w.bytes().next()? {
            b'r' => Width::W64,
            b'w' => Width::W32,
            _ => return None,
        };
        let digits = &w[1..];
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let canonical = plain && (digits == "0" || !digits.starts_with('0'));
        let n: u8 = digits.parse().ok().filter(|_| canonical)?;
        (n <= Reg::FP.0).then_some((width, Reg(n)))
    }

    fn any_reg(&mut self) -> Res<(Width, Reg)> {
        let Some(r) = self.peek_reg() else {
            let m = format!("a register expected, found {}", quote(self.rest()));
            return self.fail(m, Some(REGISTERS));
        };
        self.word();
        Ok(r)
    }

    fn reg_of(&mut self, width: Width) -> Res<Reg> {
        let start = self.byte;
        let (w, r) = self.any_reg()?;
        if w == width {
            return Ok(r);
        }
        let (want, got) = if width == Width::W64 { ('r', 'w') } else { ('w', 'r') };
        let m = format!("`{want}{n}` expected, found `{got}{n}`", n = r.0);
        fail_at(start, m, Some("both sides have the same width"))
    }

    fn reg(&mut self) -> Res<Reg> {
        self.reg_of(Width::W64)
    }

    /// `u32 *)` after an opening parenthesis.
    fn mem_type(&mut self) -> Res<(Size, bool)> {
        let start = self.byte;
        let word = self.word();
        let size = match word.get(1..) {
            Some("8") => Size::B,
            Some("16") => Size::H,
            Some("32") => Size::W,
            Some("64") => Size::DW,
            _ => return bad_type(start, word),
        };
        let sext = match &word[..1] {
            "u" => false,
            "s" if size != Size::DW => true,
            _ => return bad_type(start, word),
        };
        self.expect("*")?;
        self.expect(")")?;
        Ok((size, sext))
    }

    fn unsigned_type(&mut self) -> Res<Size> {
        let start = self.byte;
        match self.mem_type()? {
            (size, false) => Ok(size),
            _ => fail_at(start, "only a load sign-extends", Some("write an unsigned type")),
        }
    }

    /// `(r1 +0)`; plain loads and stores may name the arguments on the stack, `(r11 +8)`.
    fn address(&mut self, plain: bool) -> Res<(Reg, i16)> {
        self.expect("(")?;
        let base = match plain && self.eat("r11") {
            true => Reg::PARAMS,
            false => self.reg()?,
        };
        let off = if self.eat(")") {
            return Ok((base, 0));
        } else if self.rest().starts_with(['+', '-']) {
            self.ranged("a signed 16-bit offset")?
        } else {
            return self.fail("`+` or `-` expected", Some("write `(r1 +0)`"));
        };
        self.expect(")")?;
        Ok((base, off))
    }

    /// `(u32 *)(r1 +0)`.
    fn typed_address(&mut self, plain: bool) -> Res<(Size, Reg, i16)> {
        self.expect("(")?;
        let size = self.unsigned_type()?;
        let (base, off) = self.address(plain)?;
        Ok((size, base, off))
    }

    /// `pc+3`, `+3` or a label.
    fn target<T: TryFrom<i128> + Default>(&mut self, what: &str) -> Res<(T, Option<Target>)> {
        let signed = |c: &Self| c.rest().starts_with(['+', '-']);
        let start = self.byte;
        let after_pc = self.rest().strip_prefix("pc").is_some_and(|r| r.starts_with(['+', '-']));
        if after_pc {
            self.word();
        }
        if signed(self) {
            return Ok((self.ranged(what)?, None));
        }
        let name = self.word();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let hint = Some("write a label or `pc+N`");
            return fail_at(start, "a jump target expected", hint);
        }
        Ok((T::default(), Some(Target { name: name.to_string(), byte: start })))
    }

    /// `(b7)` in front of an instruction.
    fn opcode(&mut self) -> Option<u8> {
        let hex = self.rest().strip_prefix('(')?.get(..3)?.strip_suffix(')')?;
        let code = u8::from_str_radix(hex, 16).ok()?;
        self.byte += 4;
        self.skip();
        Some(code)
    }

    /// A whole line of code.
    pub(super) fn instruction(&mut self) -> Res<Parsed> {
        // `(u8` does not parse as hex digits and a parenthesis, so this cannot eat a type.
        let code = self.opcode();
        let parsed = self.statement(code == Some(0x18))?;
        if self.at_end() {
            return Ok(parsed);
        }
        let m = format!("{} after the instruction", quote(self.rest()));
        self.fail(m, Some("one instruction per line; comments start with `;`"))
    }

    fn statement(&mut self, wide: bool) -> Res<Parsed> {
        let start = self.byte;
        if self.eat("*") {
            return self.store().map(plain);
        }
        if self.peek_reg().is_some() {
            return self.assignment(wide);
        }
        match self.word() {
            "if" => self.conditional(),
            "goto" => {
                let (off, target) = self.target::<i16>("a 16-bit offset")?;
                Ok((Insn::Ja { off: i32::from(off), long: false }, target))
            }
            "gotol" => {
                let (off, target) = self.target("a 32-bit offset")?;
                Ok((Insn::Ja { off, long: true }, target))
            }
            "may_goto" => {
                let (off, target) = self.target("a 16-bit offset")?;
                Ok((Insn::MayGoto { off }, target))
            }
            "gotox" => Ok(plain(Insn::Gotox { dst: self.reg()? })),
            "callx" => Ok(plain(Insn::Callx { dst: self.reg()? })),
            "call" => self.call(),
            "exit" => Ok(plain(Insn::Exit)),
            "lock" => self.lock().map(plain),
            "store_release" => {
                self.expect("(")?;
                let (size, dst, off) = self.typed_address(false)?;
                self.expect(",")?;
                let src = self.reg()?;
                self.expect(")")?;
                Ok(plain(Insn::StoreRelease { size, dst, off, src }))
            }
            word if like_register(word) => {
                fail_at(start, format!("{} is not a register", quote(word)), Some(REGISTERS))
            }
            word => {
                let known = ["if", "goto", "gotol", "may_goto", "gotox", "call", "exit", "lock"];
                let hint = super::nearest(word, known.into_iter());
                let shown = if word.is_empty() { self.rest() } else { word };
                let message = format!("{} is not an instruction", quote(shown));
                Err(Error { byte: start, message, hint })
            }
        }
    }

    fn store(&mut self) -> Res<Insn> {
        let (size, dst, off) = self.typed_address(true)?;
        self.expect("=")?;
        let src = if self.peek_reg().is_some() {
            Src::Reg(self.reg()?)
        } else {
            Src::Imm(self.pattern32()?)
        };
        Ok(Insn::Store { size, dst, off, src })
    }

    fn lock(&mut self) -> Res<Insn> {
        self.expect("*")?;
        let start = self.byte;
        let (size, dst, off) = self.typed_address(false)?;
        let op = match () {
            () if self.eat("+=") => AtomicOp::Add,
            () if self.eat("|=") => AtomicOp::Or,
            () if self.eat("&=") => AtomicOp::And,
            () if self.eat("^=") => AtomicOp::Xor,
            () => return self.fail("`+=`, `|=`, `&=` or `^=` expected", None),
        };
        check_atomic_size(start, size)?;
        Ok(Insn::Atomic { size, op, dst, off, src: self.reg()? })
    }

    fn conditional(&mut self) -> Res<Parsed> {
        let (width, dst) = self.any_reg()?;
        let Some(op) = JMP.into_iter().find(|op| self.eat(jmp_text(*op))) else {
            return self.fail(format!("a comparison expected, found {}", quote(self.rest())), None);
        };
        let src = if self.peek_reg().is_some() {
            Src::Reg(self.reg_of(width)?)
        } else {
            Src::Imm(self.pattern32()?)
        };
        self.expect("goto")?;
        let (off, target) = self.target("a 16-bit offset")?;
        Ok((Insn::Jmp { width, op, dst, src, off }, target))
    }

    fn call(&mut self) -> Res<Parsed> {
        let start = self.byte;
        if self.rest().starts_with(['+', '-']) || self.peek() == "pc" {
            let (off, target) = self.target("a 32-bit offset")?;
            return Ok((Insn::Call(Call::Local(off)), target));
        }
        let name = self.word();
        if let Some(id) = number(name) {
            let id = i32::try_from(id);
            let id = id.or_else(|_| fail_at(start, "a helper id has 32 bits", None))?;
            return Ok(plain(Insn::Call(Call::Helper(id))));
        }
        // A log prints kernel-function#ID where it has no name.
        let nameless = name == "kernel" && self.eat("-function");
        if self.eat("#") {
            let id = self.imm32()?;
            let helper = !nameless && (name == "unknown" || helper_name(id) == Some(name));
            let call = if helper { Call::Helper(id) } else { Call::Kfunc { btf_id: id, off: 0 } };
            return Ok(plain(Insn::Call(call)));
        }
        if name.is_empty() || nameless {
            return fail_at(start, "a function expected", Some("write its name or `pc+N`"));
        }
        match helper_id(name) {
            Some(id) => Ok(plain(Insn::Call(Call::Helper(id)))),
            None => {
                let target = Target { name: name.to_string(), byte: start };
                Ok((Insn::Call(Call::Local(0)), Some(target)))
            }
        }
    }

    /// A line that starts with a register.
    fn assignment(&mut self, wide: bool) -> Res<Parsed> {
        let (width, dst) = self.any_reg()?;
        let Some(op) = ALU.into_iter().find(|op| self.eat(alu_text(*op))) else {
            return self.fail(format!("an operator expected, found {}", quote(self.rest())), None);
        };
        if op == AluOp::Mov {
            return self.value(width, dst, wide);
        }
        let src = if self.peek_reg().is_some() {
            Src::Reg(self.reg_of(width)?)
        } else if width == Width::W32 {
            Src::Imm(self.pattern32()?)
        } else {
            Src::Imm(self.imm32()?)
        };
        Ok(plain(Insn::Alu { width, op, dst, src }))
    }

    /// What follows `dst =`.
    fn value(&mut self, width: Width, dst: Reg, wide: bool) -> Res<Parsed> {
        if self.peek_reg().is_some() {
            let src = Src::Reg(self.reg_of(width)?);
            return Ok(plain(Insn::Alu { width, op: AluOp::Mov, dst, src }));
        }
        if let Some(insn) = self.negation(width, dst)? {
            return Ok(plain(insn));
        }
        if self.rest().starts_with('(') {
            return self.sign_extension(width, dst).map(plain);
        }
        let first = self.rest().bytes().next().unwrap_or(b' ');
        if first.is_ascii_digit() || matches!(first, b'-' | b'+') {
            return self.constant(width, dst, wide).map(plain);
        }
        let start = self.byte;
        if self.eat("*") {
            return self.load(dst).map(plain);
        }
        if self.eat("&") {
            for token in ["(", "void", "__percpu", "*", ")", "("] {
                self.expect(token)?;
            }
            let src = self.reg()?;
            self.expect(")")?;
            return Ok(plain(Insn::MovPercpu { dst, src }));
        }
        let word = self.word();
        if width == Width::W32 {
            return fail_at(start, format!("{} has 64 bits", quote(word)), Some("write `rN =`"));
        }
        self.named_value(dst, word, start)
    }

    /// `-r1`, only of the destination itself.
    fn negation(&mut self, width: Width, dst: Reg) -> Res<Option<Insn>> {
        let letter = self.rest().strip_prefix('-').and_then(|r| r.trim_start().chars().next());
        if !matches!(letter, Some('r' | 'w')) {
            return Ok(None);
        }
        self.eat("-");
        let start = self.byte;
        if self.reg_of(width)? != dst {
            return fail_at(start, "negation is of the destination", Some("copy it first"));
        }
        Ok(Some(Insn::Neg { width, dst }))
    }

    fn sign_extension(&mut self, width: Width, dst: Reg) -> Res<Insn> {
        self.expect("(")?;
        let start = self.byte;
        let bits = match (self.word(), width) {
            ("s8", _) => 8,
            ("s16", _) => 16,
            ("s32", Width::W64) => 32,
            (word, _) => return bad_type(start, word),
        };
        self.expect(")")?;
        Ok(Insn::MovSx { width, dst, src: self.reg_of(width)?, bits })
    }

    fn constant(&mut self, width: Width, dst: Reg, wide: bool) -> Res<Insn> {
        let start = self.byte;
        if width == Width::W32 {
            let imm = self.pattern32()?;
            return Ok(Insn::Alu { width, op: AluOp::Mov, dst, src: Src::Imm(imm) });
        }
        let v = self.number()?;
        if self.eat("ll") || wide {
            let Some(c) = u64::try_from(v).ok().or(i64::try_from(v).ok().map(i64::cast_unsigned))
            else {
                return fail_at(start, format!("{v} does not fit in 64 bits"), None);
            };
            return Ok(Insn::LdImm64 { dst, imm: Imm64::Const(c) });
        }
        match i32::try_from(v) {
            Ok(imm) => Ok(Insn::Alu { width, op: AluOp::Mov, dst, src: Src::Imm(imm) }),
            Err(_) => {
                let m = format!("{v} does not fit in a signed 32-bit immediate");
                fail_at(start, m, Some("add `ll` for a 16-byte load"))
            }
        }
    }

    fn load(&mut self, dst: Reg) -> Res<Insn> {
        self.expect("(")?;
        let start = self.byte;
        let (size, sext) = self.mem_type()?;
        if !self.eat("skb") {
            let (src, off) = self.address(true)?;
            return Ok(Insn::Load { size, sext, dst, src, off });
        }
        if dst != Reg::R0 || sext || size == Size::DW {
            let m = "a packet load is into r0, of u8, u16 or u32";
            return fail_at(start, m, None);
        }
        self.expect("[")?;
        let insn = if self.peek_reg().is_some() {
            let src = self.reg()?;
            self.expect("+")?;
            Insn::LdInd { size, src, imm: self.imm32()? }
        } else {
            Insn::LdAbs { size, imm: self.imm32()? }
        };
        self.expect("]")?;
        Ok(insn)
    }

    /// Functions and 16-byte loads: what starts with a word.
    fn named_value(&mut self, dst: Reg, word: &str, start: usize) -> Res<Parsed> {
        for op in [EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap] {
            if let Some(bits) = word.strip_prefix(end_text(op)).and_then(end_bits) {
                let at = self.byte;
                if self.reg()? != dst {
                    let m = "the byte order of the destination is changed";
                    return fail_at(at, m, Some("copy it first"));
                }
                return Ok(plain(Insn::End { op, dst, bits }));
            }
        }
        match word {
            "addr_space_cast" => self.cast(dst).map(plain),
            "load_acquire" => {
                self.expect("(")?;
                let (size, src, off) = self.typed_address(false)?;
                self.expect(")")?;
                Ok(plain(Insn::LoadAcquire { size, dst, src, off }))
            }
            "map" | "map_value" | "map_fd" | "map_fd_value" | "btf_id" | "func" => {
                self.reference(dst, word)
            }
            _ => match word.strip_prefix("atomic64_").or_else(|| word.strip_prefix("atomic_")) {
                Some(name) => self.fetch(dst, name, word.starts_with("atomic64_"), start),
                None => {
                    let known = ["load_acquire", "map", "map_value", "addr_space_cast", "func"];
                    let hint = super::nearest(word, known.into_iter());
                    let shown = if word.is_empty() { self.rest() } else { word };
                    let message = format!("{} is not a value", quote(shown));
                    Err(Error { byte: start, message, hint })
                }
            },
        }
    }

    fn cast(&mut self, dst: Reg) -> Res<Insn> {
        self.expect("(")?;
        let src = self.reg()?;
        self.expect(",")?;
        let start = self.byte;
        let to = self.number()?;
        self.expect(",")?;
        let cast = match (to, self.number()?) {
            (0, 1) => Cast::ToKernel,
            (1, 0) => Cast::ToUser,
            _ => {
                let hint = Some("write `0, 1` or `1, 0`");
                return fail_at(start, "casts are between address spaces 1 and 0", hint);
            }
        };
        self.expect(")")?;
        Ok(Insn::AddrSpaceCast { dst, src, cast })
    }

    fn fetch(&mut self, dst: Reg, name: &str, dw: bool, start: usize) -> Res<Parsed> {
        let op = FETCH.iter().find(|f| f.0 == name).map(|f| f.1);
        let Some(op) = op.or((name == "cmpxchg").then_some(AtomicOp::Cmpxchg)) else {
            return fail_at(start, "unknown atomic function", None);
        };
        self.expect("(")?;
        let type_at = self.byte;
        let (size, base, off) = self.typed_address(false)?;
        if (size == Size::DW) != dw || !matches!(size, Size::W | Size::DW) {
            let hint = Some("atomic_ is for u32, atomic64_ for u64");
            return fail_at(type_at, "the type does not match the function", hint);
        }
        self.expect(",")?;
        let at = self.byte;
        let src = if op == AtomicOp::Cmpxchg {
            let expected = self.reg()?;
            self.expect(",")?;
            if (dst, expected) != (Reg::R0, Reg::R0) {
                return fail_at(at, "cmpxchg compares with r0 and returns in r0", None);
            }
            self.reg()?
        } else {
            let src = self.reg()?;
            if src != dst {
                return fail_at(at, "the old value replaces the operand", Some("use one register"));
            }
            src
        };
        self.expect(")")?;
        Ok(plain(Insn::Atomic { size, op, dst: base, off, src }))
    }

    /// `map[x] ll`, `map_value[x]+8 ll`, `btf_id[x] ll`, `func[x] ll`, `func pc+3 ll`.
    fn reference(&mut self, dst: Reg, kind: &str) -> Res<Parsed> {
        if kind == "func" && !self.rest().starts_with('[') {
            let (off, target) = self.target("a 32-bit offset")?;
            self.eat("ll");
            return Ok((Insn::LdImm64 { dst, imm: Imm64::Func(off) }, target));
        }
        self.expect("[")?;
        let start = self.byte;
        let (mut id, mut target) = (0, None);
        if self.rest().starts_with(['-', '+'])
            || self.peek().as_bytes().first().is_none_or(u8::is_ascii_digit)
        {
            id = self.imm32()?;
        } else {
            target = Some(Target { name: self.word().to_string(), byte: start });
        }
        let btf_fd = if kind == "btf_id" && self.eat(",") { self.imm32()? } else { 0 };
        self.expect("]")?;
        let value = matches!(kind, "map_value" | "map_fd_value");
        let off = if value && self.eat("+") { self.ranged("a 32-bit offset")? } else { 0 };
        self.eat("ll");
        let imm = match kind {
            "map" => Imm64::MapIdx(id),
            "map_value" => Imm64::MapIdxValue { idx: id, off },
            "map_fd" => Imm64::MapFd(id),
            "map_fd_value" => Imm64::MapValue { fd: id, off },
            "btf_id" => Imm64::BtfId { id, btf_fd },
            _ => Imm64::Func(id),
        };
        if let (Some(t), Imm64::MapFd(_) | Imm64::MapValue { .. }) = (&target, imm) {
            return fail_at(t.byte, "a descriptor is a number", Some("write `map[NAME]`"));
        }
        Ok((Insn::LdImm64 { dst, imm }, target))
    }
}

/// `r11`: meant as a register, but none.
fn like_register(word: &str) -> bool {
    let digits = word.strip_prefix(['r', 'w']).unwrap_or("");
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn end_bits(digits: &str) -> Option<u8> {
    match digits {
        "16" => Some(16),
        "32" => Some(32),
        "64" => Some(64),
        _ => None,
    }
}

fn check_atomic_size(byte: usize, size: Size) -> Res<()> {
    if matches!(size, Size::W | Size::DW) {
        return Ok(());
    }
    fail_at(byte, "atomic operations are on u32 or u64", None)
}

fn bad_type<T>(byte: usize, word: &str) -> Res<T> {
    let hint = Some("types are u8, u16, u32, u64 and s8, s16, s32 for sign-extending loads");
    fail_at(byte, format!("{} is not a type here", quote(word)), hint)
}

fn plain(insn: Insn) -> Parsed {
    (insn, None)
}

fn fail_at<T>(byte: usize, message: impl Into<String>, hint: Option<&str>) -> Res<T> {
    Err(Error { byte, message: message.into(), hint: hint.map(str::to_string) })
}

/// The start of some text, for a message.
fn quote(text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() {
        return "nothing".into();
    }
    let short: String = text.chars().take(20).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("`{short}{more}`")
}
