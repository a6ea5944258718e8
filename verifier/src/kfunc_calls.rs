//! What can be said of kfunc calls and kernel variables before any of them is reached:
//! `add_kfunc_call` and `check_pseudo_btf_id`.

use bpf::Program;
use bpf::btf::{Body, Btf, Kind, TypeId};
use bpf::insn::{Call, Imm64, Insn};

use crate::cfg::slot;
use crate::domain::reg::{RegState, RegType};
use crate::env::KernelEnv;
use crate::proto::Flags;
use crate::reject::{E2BIG, EINVAL, ENOTSUPP, Rejection};
use crate::verify::is_gpl_compatible;

/// `ENOENT`.
const ENOENT: i32 = 2;
/// `EPROTO`.
const EPROTO: i32 = 71;
/// `MAX_KFUNC_DESCS`.
const KFUNCS_MAX: usize = 256;
/// `bpf_dev_bound_kfunc_id`: functions of a network device's driver.
const DEVICE_BOUND: &str = "bpf_xdp_metadata_rx_";

type R<T = ()> = Result<T, Box<Rejection>>;

fn no<T>(errno: i32, text: impl Into<String>) -> R<T> {
    Err(Box::new(Rejection::refuse(errno, text)))
}

/// KERNEL v6.18 verifier.c:add_kfunc_call, for all of a program; whether descriptors are passed.
pub(crate) fn check_calls(p: &Program, env: &dyn KernelEnv, fd_array: bool) -> R {
    let mut seen: Vec<u32> = Vec::new();
    for insn in &p.insns {
        let Insn::Call(Call::Kfunc { btf_id, off }) = *insn else { continue };
        let Some(btf) = env.btf() else {
            let m = "calling kernel function is not supported without CONFIG_DEBUG_INFO_BTF";
            return no(ENOTSUPP, m);
        };
        if !is_gpl_compatible(&p.license) {
            let m = "cannot call kernel function from non-GPL compatible program";
            return no(EINVAL, m);
        }
        let id = btf_id.cast_unsigned();
        if off != 0 {
            return no_module(off, fd_array);
        }
        if id == 0 || seen.contains(&id) {
            continue;
        }
        if seen.len() == KFUNCS_MAX {
            return no(E2BIG, "too many different kernel function calls");
        }
        check_prototype(env, btf, id)?;
        seen.push(id);
    }
    Ok(())
}

/// KERNEL v6.18 verifier.c:find_kfunc_desc_btf, where no descriptor is that of a module's BTF.
fn no_module(off: i16, fd_array: bool) -> R {
    let (errno, why) = match (off, fd_array) {
        (..0, _) => (EINVAL, "negative offset disallowed for kernel module function call"),
        (_, false) => (EPROTO, "kfunc offset > 0 without fd_array is invalid"),
        (_, true) => (EINVAL, "invalid module BTF fd specified"),
    };
    no(errno, format!("{why}\nfailed to find BTF for kernel function"))
}

fn check_prototype(env: &dyn KernelEnv, btf: &Btf, id: TypeId) -> R {
    if btf.kind(id) != Kind::Func {
        return no(EINVAL, format!("kernel btf_id {id} is not a function"));
    }
    if btf.func_proto(id).is_none() {
        let m = format!("kernel function btf_id {id} does not have a valid func_proto");
        return no(EINVAL, m);
    }
    if env.lacks_symbol(btf.name(id)) {
        let m = format!("cannot find address for kernel function {}", btf.name(id));
        return no(EINVAL, m);
    }
    if btf.name(id).starts_with(DEVICE_BOUND) {
        return no(EINVAL, "metadata kfuncs require device-bound program");
    }
    Ok(())
}

/// A weak kfunc that the kernel has not is an error where it may be reached, once all is known.
pub(crate) fn eliminated(insns: &[Insn], seen: impl Fn(usize) -> bool) -> R {
    let missing = |i: &Insn| matches!(i, Insn::Call(Call::Kfunc { btf_id: 0, .. }));
    match insns.iter().enumerate().find(|(i, insn)| missing(insn) && seen(*i)) {
        Some((i, _)) => {
            let m = "invalid kernel function call not eliminated in verifier pass";
            Err(Box::new(Rejection::invalid(m).at(slot(i))))
        }
        None => Ok(()),
    }
}

/// KERNEL v6.18 verifier.c:check_pseudo_btf_id, for all of a program.
pub(crate) fn check_variables(p: &Program, env: &dyn KernelEnv) -> R {
    for (i, insn) in p.insns.iter().enumerate() {
        if let Insn::LdImm64 { imm: Imm64::BtfId { id, btf_fd }, .. } = *insn {
            if btf_fd != 0 {
                let gone = Rejection::invalid("invalid module BTF object FD specified.");
                return Err(Box::new(gone.at(slot(i))));
            }
            variable(env, id.cast_unsigned()).map_err(|e| Box::new((*e).at(slot(i))))?;
        }
    }
    Ok(())
}

/// The register that the address of a kernel variable or function is loaded into.
pub(crate) fn variable(env: &dyn KernelEnv, id: TypeId) -> R<RegState> {
    let Some(btf) = env.btf() else {
        let m = "kernel is missing BTF, make sure CONFIG_DEBUG_INFO_BTF=y is specified in Kconfig.";
        return no(EINVAL, m);
    };
    let name = btf.name(id);
    if matches!(btf.kind(id), Kind::Var | Kind::Func) && env.lacks_symbol(name) {
        let m = "ldimm64 failed to find the address for kernel symbol";
        return no(ENOENT, format!("{m} '{name}'."));
    }
    let ty = match *btf.body(id) {
        Body::Var { ty, .. } => ty,
        Body::Func { .. } => return Ok(RegState::pointer(RegType::Mem, Flags::MEM_RDONLY)),
        _ if btf.by_id(id).is_none() => {
            let id = id.cast_signed();
            return no(ENOENT, format!("ldimm64 insn specifies invalid btf_id {id}."));
        }
        _ => {
            let m = format!("pseudo btf_id {id} in ldimm64 isn't KIND_VAR or KIND_FUNC");
            return no(EINVAL, m);
        }
    };
    let object = |flags| RegState { btf_id: ty, ..RegState::pointer(RegType::BtfId, flags) };
    if is_percpu(btf, id) {
        return Ok(object(Flags::MEM_PERCPU));
    }
    let real = btf.resolve(ty);
    if matches!(btf.kind(real), Kind::Struct | Kind::Union) {
        return Ok(object(Flags::NONE));
    }
    let Some(size) = btf.size_of(real) else {
        let name = btf.name(real);
        let m = format!("ldimm64 unable to resolve the size of type '{name}': -22");
        return no(EINVAL, m);
    };
    let mut r = RegState::pointer(RegType::Mem, Flags::MEM_RDONLY);
    r.mem_size = size;
    Ok(r)
}

/// Whether a variable has a copy for each CPU.
fn is_percpu(btf: &Btf, var: TypeId) -> bool {
    let Some(sec) = btf.find(".data..percpu", Kind::Datasec) else { return false };
    matches!(btf.body(sec), Body::Datasec { vars, .. } if vars.iter().any(|v| v.ty == var))
}
