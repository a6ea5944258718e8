//! Kernel functions that programs call: one row is name, number of arguments, body.
//!
//! Prototypes are in `types/kfunc.types`, from which the model's BTF declares them; flags and who
//! may call them are the verifier's (`verifier::tables`). Numbers differ between architectures,
//! because BTF ids do: a call is looked up by name.
//!
//! Where the kernel's verifier patches an argument (`meta__ign`, `off`), the body finds the same by
//! itself: types in the program's BTF, objects by address.

mod arena;
mod cpumask;
mod dynptr;
mod iter;
mod iter_obj;
mod list;
mod obj;
mod probe;
mod rbtree;
mod sock;
mod stream;
mod string;
mod sync;
mod task;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bpf::Arch;
use bpf::btf::Kind;
use verifier::tables;

pub(crate) use iter_obj::CssTasks;
pub(crate) use list::damage as list_damage;
pub(crate) use obj::Objects;
pub(crate) use rbtree::{Adding, damage as tree_damage};
pub(crate) use sync::save as irq_save;

use crate::helpers::Body;
use crate::types::Types;

/// One kernel function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KfuncRow {
    /// Name.
    pub(crate) name: &'static str,
    /// Number of arguments.
    pub(crate) nargs: u8,
    /// What it does.
    pub(crate) body: Body,
}

/// A row of a table.
const fn row(name: &'static str, nargs: u8, body: Body) -> KfuncRow {
    KfuncRow { name, nargs, body }
}

const TABLES: &[&[KfuncRow]] = &[
    arena::ROWS,
    cpumask::ROWS,
    dynptr::ROWS,
    iter::ROWS,
    iter_obj::ROWS,
    list::ROWS,
    obj::ROWS,
    probe::ROWS,
    rbtree::ROWS,
    sock::ROWS,
    stream::ROWS,
    string::ROWS,
    sync::ROWS,
    task::ROWS,
    work::ROWS,
];

type ById = BTreeMap<i32, &'static KfuncRow>;

static BY_ID: LazyLock<[ById; 4]> = LazyLock::new(|| {
    Arch::ALL.map(|arch| {
        let btf = Types::of(arch).btf();
        let id = |name| btf.find(name, Kind::Func).expect("a row has a prototype");
        let rows = TABLES.iter().flat_map(|t| t.iter());
        rows.map(|r| (id(r.name).cast_signed(), r)).collect()
    })
});

/// The row of a function by its BTF id, when it has a body.
pub(crate) fn by_id(arch: Arch, btf_id: i32) -> Option<&'static KfuncRow> {
    let n = Arch::ALL.iter().position(|a| *a == arch).expect("ALL has every architecture");
    BY_ID[n].get(&btf_id).copied()
}

/// Name of a kernel function that has a body.
#[must_use]
pub fn name(arch: Arch, btf_id: i32) -> Option<&'static str> {
    by_id(arch, btf_id).map(|r| r.name)
}

/// Name and number of arguments of a kernel function that has a body.
#[must_use]
pub fn signature(arch: Arch, btf_id: i32) -> Option<(&'static str, u8)> {
    by_id(arch, btf_id).map(|r| (r.name, r.nargs))
}

/// Sections and locks: what they acquire is no reference.
const SECTIONS: &[&str] = &[
    "bpf_rcu_read_lock",
    "bpf_preempt_disable",
    "bpf_local_irq_save",
    "bpf_res_spin_lock",
    "bpf_res_spin_lock_irqsave",
];

static ACQUIRING: LazyLock<[BTreeSet<i32>; 4]> = LazyLock::new(|| {
    let acquires = |name: &str| {
        SECTIONS.contains(&name) || tables::kfunc_effect(name).is_some_and(|e| e.acquire)
    };
    [0, 1, 2, 3].map(|n: usize| {
        BY_ID[n].iter().filter(|(_, r)| acquires(r.name)).map(|(id, _)| *id).collect()
    })
});

/// Whether a function acquires something, so that whoever holds it wants to know where.
pub(crate) fn acquires(arch: Arch, btf_id: i32) -> bool {
    let n = Arch::ALL.iter().position(|a| *a == arch).expect("ALL has every architecture");
    ACQUIRING[n].contains(&btf_id)
}

/// It does not return, so it has no body here: `Kernel::prog_throw` unwinds.
pub const THROW: &str = "bpf_throw";

/// Names of all kernel functions that programs can call.
pub fn modelled() -> impl Iterator<Item = &'static str> {
    TABLES.iter().flat_map(|t| t.iter()).map(|r| r.name).chain([THROW])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_has_a_body_and_its_arguments() {
        for arch in Arch::ALL {
            let btf = Types::of(arch).btf();
            let is_kfunc = |id: &u32| btf.decl_tags(*id).any(|t| t.1 == "bpf_kfunc");
            for id in btf.ids().filter(|id| btf.kind(*id) == Kind::Func && is_kfunc(id)) {
                let name = btf.name(id);
                if name == THROW {
                    continue;
                }
                let row = by_id(arch, id.cast_signed()).unwrap_or_else(|| panic!("{name}"));
                let params = btf.func_proto(id).map(|p| p.1.len());
                assert_eq!(params, Some(row.nargs.into()), "{name}");
            }
        }
    }
}
