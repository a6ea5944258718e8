//! The loader against a kernel that only writes down what it is told.

use super::*;
use bpf::Arch;
use kernel_model::types::Types;
use verifier::reject::RejectKind;

const EL: &[u8] = include_bytes!("../../../tests/corpus/objects/el/object_basic.bpf.o");
const EB: &[u8] = include_bytes!("../../../tests/corpus/objects/eb/object_basic.bpf.o");

/// Descriptors are 10, 11, ... in order of creation.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    names: BTreeMap<Fd, String>,
    refuse: Option<&'static str>,
}

impl Notes {
    fn open(&mut self, name: &str) -> Fd {
        let fd = 10 + self.names.len() as Fd;
        self.names.insert(fd, name.to_owned());
        fd
    }
}

impl Bpf for Notes {
    fn map_create(&mut self, m: &MapCreate, _: Option<&Btf>) -> Result<Fd, Errno> {
        if self.refuse == Some(&m.name) {
            return Err(Errno::EINVAL);
        }
        let inner = m.inner.map_or(String::new(), |fd| format!(" inner {fd}"));
        let fd = self.open(&m.name);
        self.lines.push(format!("create {} {}{inner} = {fd}", m.name, m.max_entries));
        Ok(fd)
    }

    fn map_update(&mut self, map: Fd, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        self.lines.push(format!("update {} {key:x?} {value:x?}", self.names[&map]));
        Ok(())
    }

    fn map_freeze(&mut self, map: Fd) -> Result<(), Errno> {
        self.lines.push(format!("freeze {}", self.names[&map]));
        Ok(())
    }

    fn prog_load(&mut self, load: ProgLoad<'_>) -> Result<ProgLoaded, ProgRefusal> {
        let (p, fd_array) = (load.program, load.fd_array);
        let fd = self.open(&p.name);
        self.lines.push(format!("load {} {} with {fd_array:?} = {fd}", p.prog_type.name(), p.name));
        Ok(ProgLoaded { fd, id: 1, log: String::new() })
    }

    fn cpus(&self) -> u32 {
        4
    }
}

fn load_into(notes: &mut Notes, arch: Arch, opts: &LoadOptions) -> Result<LoadedObject, LoadError> {
    let bytes = if arch == Arch::S390x { EB } else { EL };
    load(notes, Types::of(arch).btf(), arch.endian(), bytes, opts)
}

#[test]
fn order_and_contents_are_those_of_libbpf() {
    for arch in [Arch::Arm64, Arch::S390x] {
        let mut notes = Notes::default();
        let mut opts = LoadOptions::default();
        opts.max_entries.insert("counts".to_owned(), 5);
        let limit = if arch == Arch::S390x { [0, 0, 2, 0] } else { [0, 2, 0, 0] };
        opts.globals.insert("limit".to_owned(), limit.to_vec());
        let o = load_into(&mut notes, arch, &opts).unwrap();
        let text = notes.lines.join("\n");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in\n{text}"));
        assert!(at("create counts 5") < at("load xdp main_prog"), "{text}");
        // The map of maps is made from a throw-away inner map, then filled with the real one.
        assert!(text.contains(" inner "), "{text}");
        let inner = o.map("inner").unwrap() as u32;
        let tail = o.prog("tail").unwrap().fd as u32;
        let word = |v: u32| match arch.endian() {
            Endian::Little => v.to_le_bytes(),
            Endian::Big => v.to_be_bytes(),
        };
        at(&format!("update outer {:x?} {:x?}", word(1), word(inner)));
        let slot = at(&format!("update jumps {:x?} {:x?}", word(0), word(tail)));
        assert!(at("load xdp tail") < slot, "{text}");
        let filled = at(&format!("{:x?}]", limit).replace("]]", "]"));
        assert!(filled < at("freeze"), "{text}");
        assert!(!text.contains(".bss [0, 0, 0, 0]"), "zeroes are not written: {text}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let arch = Arch::X86_64;
    let error = |opts: &LoadOptions, refuse| {
        let mut notes = Notes { refuse, ..Notes::default() };
        load_into(&mut notes, arch, opts).unwrap_err().to_string()
    };
    let none = LoadOptions::default();
    assert_eq!(error(&none, Some("counts")), "map 'counts': BPF_MAP_CREATE: EINVAL");
    let mut opts = LoadOptions { programs: Some(vec!["nope".to_owned()]), ..none.clone() };
    assert_eq!(error(&opts, None), "no program 'nope' in the object");
    opts.globals.insert("limit".to_owned(), vec![1]);
    assert_eq!(error(&opts, None), "global 'limit': 1 bytes given, it has 4");
    let other = load(&mut Notes::default(), Types::of(arch).btf(), Endian::Big, EL, &none);
    assert!(matches!(other, Err(LoadError::ByteOrder(Endian::Little))));
    assert!(
        load(&mut Notes::default(), Types::of(arch).btf(), Endian::Little, &[1, 2], &none).is_err()
    );
}

#[test]
fn the_model_takes_what_its_verifier_accepts() {
    for arch in Arch::ALL {
        let config = crate::Config::default();
        let mut m = crate::Machine::new(arch, config).unwrap();
        let bytes = if arch == Arch::S390x { EB } else { EL };
        let opts = LoadOptions::default();
        match m.load_object(bytes, &opts) {
            Ok(o) => {
                let p = o.prog("main_prog").unwrap();
                assert_ne!(m.kernel.entry_of(kernel_model::ProgId(p.id)), 0, "{arch}");
            }
            // Maps, contents and linking went through; the verifier says what it cannot do.
            Err(crate::MachineError::Load(LoadError::Rejected { rejection, .. })) => {
                let unsupported = matches!(rejection.kind, RejectKind::Unsupported { .. });
                assert!(unsupported, "{arch}: {rejection:?}");
            }
            Err(other) => panic!("{arch}: {other}"),
        }
    }
}
