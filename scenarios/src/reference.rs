//! The reference page and the skeleton of a new file.

/// The page that `orrery scenario reference` prints.
#[must_use]
pub fn page() -> &'static str {
    include_str!("../reference.md")
}

/// A small file to start from: what `orrery scenario new` writes.
#[must_use]
pub fn new_file(object: &str, prog: &str) -> String {
    format!(
        "// What arrives, what runs, what must hold. See `orrery scenario reference`.\n\
         Scenario(\n    orrery: 1,\n    about: \"one sentence\",\n\
         \x20   machine: (nics: {{\"eth0\": ()}}),\n\
         \x20   objects: {{\"main\": (file: \"{object}\")}},\n\
         \x20   attach: [Xdp(prog: \"{prog}\", nic: \"eth0\")],\n\
         \x20   packets: {{\n\
         \x20       \"ping\": [Eth(), Ip4(src: \"10.0.0.2\", dst: \"10.0.0.1\"), \
         Udp(sport: 9000, dport: 7), Text(\"ping\")],\n    }},\n\
         \x20   timeline: [\n        At(\"0us\", Send(packet: \"ping\", on: \"eth0\")),\n    ],\n\
         \x20   expect: [\n        Verdicts(prog: \"{prog}\", are: (PASS: 1)),\n    ],\n)\n"
    )
}
