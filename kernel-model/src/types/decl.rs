//! Reads the type table: struct, union, enum and typedef declarations of C.

use bpf::{Arch, Endian};

/// A type as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ty {
    Void,
    /// Integer or typedef name.
    Name(String),
    Struct(String),
    Union(String),
    Enum(String),
    Anon(Box<Struct>),
    Ptr(Box<Ty>),
    Array(Box<Ty>, u32),
    Const(Box<Ty>),
    /// A function's prototype.
    Fn(Box<Ty>, Vec<(String, Ty)>),
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) ty: Ty,
    pub(super) bits: Option<u32>,
}

/// A struct or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Struct {
    pub(super) name: String,
    pub(super) union: bool,
    pub(super) members: Vec<Member>,
}

impl Struct {
    /// Its name with its kind in front, as C has it.
    pub(super) fn key(&self) -> String {
        format!("{} {}", if self.union { "union" } else { "struct" }, self.name)
    }
}

/// One declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decl {
    Int {
        name: String,
        size: u32,
        kind: String,
    },
    Typedef {
        name: String,
        ty: Ty,
    },
    Struct(Struct),
    Enum {
        name: String,
        values: Vec<(String, i64)>,
    },
    /// A function of the model; programs attach to it, or call it.
    Func {
        name: String,
        ret: Ty,
        params: Vec<(String, Ty)>,
        kfunc: bool,
    },
    Trace {
        group: String,
        name: String,
        params: Vec<(String, Ty)>,
        record: String,
    },
}

/// Whether lines under `#section` count for an architecture.
fn wanted(section: &str, arch: Arch) -> bool {
    match section {
        "all" => true,
        "little" => arch.endian() == Endian::Little,
        "big" => arch.endian() == Endian::Big,
        name => Arch::from_name(name).expect("a section of the type table") == arch,
    }
}

/// Declarations for one architecture, in order.
pub(super) fn parse(table: &str, arch: Arch) -> Vec<Decl> {
    let mut text = String::new();
    let mut on = true;
    for line in table.lines() {
        if let Some(section) = line.strip_prefix('#') {
            on = wanted(section, arch);
        } else if on && !line.starts_with("//") {
            text.push_str(line);
            text.push('\n');
        }
    }
    let mut p = Parser { tokens: tokens(&text), at: 0 };
    let mut decls = Vec::new();
    while p.at < p.tokens.len() {
        decls.push(p.decl());
    }
    decls
}

fn tokens(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' {
            out.push(chars.by_ref().take_while(|c| *c != '"').collect());
        } else if c.is_alphanumeric() || c == '_' || c == '-' {
            let mut word = String::from(c);
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(c);
            }
            out.push(word);
        } else if !c.is_whitespace() {
            out.push(c.to_string());
        }
    }
    out
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn word(&mut self) -> String {
        let w = self.tokens.get(self.at).expect("the type table is whole").clone();
        self.at += 1;
        w
    }

    fn eat(&mut self, token: &str) -> bool {
        let hit = self.peek() == token;
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, token: &str) {
        let near = &self.tokens[self.at.saturating_sub(6)..self.at];
        assert_eq!(self.peek(), token, "type table, after {near:?}");
        self.at += 1;
    }

    fn number<T: std::str::FromStr>(&mut self) -> T {
        let w = self.word();
        w.parse().unwrap_or_else(|_| panic!("type table: {w} is not a number"))
    }

    fn decl(&mut self) -> Decl {
        match self.word().as_str() {
            "int" => {
                let name = self.word();
                Decl::Int { name, size: self.number(), kind: self.word() }
            }
            "typedef" => {
                let ty = self.base();
                let name = self.word();
                self.eat(";");
                Decl::Typedef { name, ty }
            }
            kind @ ("struct" | "union") => {
                let union = kind == "union";
                let name = self.word();
                let members = self.members();
                self.expect(";");
                Decl::Struct(Struct { name, union, members })
            }
            "enum" => self.enumeration(),
            kind @ ("func" | "kfunc") => {
                let kfunc = kind == "kfunc";
                let ret = self.pointers();
                let name = self.word();
                let params = self.params();
                self.expect(";");
                Decl::Func { name, ret, params, kfunc }
            }
            "trace" => {
                let (group, name) = (self.word(), self.word());
                let params = self.params();
                let record = self.word();
                self.expect(";");
                Decl::Trace { group, name, params, record }
            }
            other => panic!("type table: {other} starts no declaration"),
        }
    }

    fn enumeration(&mut self) -> Decl {
        let name = if self.peek() == "{" { String::new() } else { self.word() };
        self.expect("{");
        let mut values = Vec::new();
        while !self.eat("}") {
            let value = self.word();
            self.expect("=");
            values.push((value, self.number()));
            self.eat(",");
        }
        self.expect(";");
        Decl::Enum { name, values }
    }

    fn members(&mut self) -> Vec<Member> {
        self.expect("{");
        let mut out = Vec::new();
        while !self.eat("}") {
            out.push(self.member());
        }
        out
    }

    /// A type with its stars.
    fn pointers(&mut self) -> Ty {
        let mut ty = self.base();
        while self.eat("*") {
            ty = Ty::Ptr(Box::new(ty));
        }
        ty
    }

    fn params(&mut self) -> Vec<(String, Ty)> {
        self.expect("(");
        let mut out = Vec::new();
        while !self.eat(")") {
            let ty = self.pointers();
            if ty == Ty::Void {
                continue;
            }
            out.push((self.word(), ty));
            self.eat(",");
        }
        out
    }

    fn member(&mut self) -> Member {
        let mut ty = self.pointers();
        let named = !matches!(self.peek(), ";" | ":");
        let name = if named { self.word() } else { String::new() };
        if self.eat("[") {
            ty = Ty::Array(Box::new(ty), self.number());
            self.expect("]");
        }
        let bits = self.eat(":").then(|| self.number());
        self.expect(";");
        Member { name, ty, bits }
    }

    /// A type without its stars: C's spellings of integers become BTF's names.
    fn base(&mut self) -> Ty {
        let word = self.word();
        match word.as_str() {
            "void" => Ty::Void,
            "const" => Ty::Const(Box::new(self.base())),
            "fn" => {
                let ret = self.pointers();
                Ty::Fn(Box::new(ret), self.params())
            }
            "struct" | "union" if self.peek() == "{" => {
                let members = self.members();
                Ty::Anon(Box::new(Struct { name: String::new(), union: word == "union", members }))
            }
            "struct" => Ty::Struct(self.word()),
            "union" => Ty::Union(self.word()),
            "enum" => Ty::Enum(self.word()),
            "unsigned" => Ty::Name(match self.word().as_str() {
                "long" => "long unsigned int".into(),
                "int" => "unsigned int".into(),
                "short" => "short unsigned int".into(),
                "char" => "unsigned char".into(),
                other => panic!("type table: unsigned {other}"),
            }),
            "long" if self.eat("long") => Ty::Name("long long int".into()),
            "long" => Ty::Name("long int".into()),
            _ => Ty::Name(word),
        }
    }
}
