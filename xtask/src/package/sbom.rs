//! The software bill of materials: CycloneDX 1.6 in JSON (<https://cyclonedx.org/docs/1.6/json/>).
//!
//! Written here and not by cargo-cyclonedx, which lists what any build of the workspace may take;
//! this one has what is linked into these programs. No time and no random serial number are in it,
//! so that the same sources give the same bytes.

use serde_json::{Value, json};

use super::dependencies::Dependency;

/// The bill of the package `name` in version `version`.
pub(super) fn cyclonedx(name: &str, version: &str, dependencies: &[Dependency]) -> String {
    let own = format!("pkg:generic/{name}@{version}");
    let components: Vec<Value> = dependencies.iter().map(component).collect();
    let all: Vec<String> = dependencies.iter().map(address_of).collect();
    let edges = dependencies.iter().map(|one| {
        let needs: Vec<String> = one
            .needs
            .iter()
            .map(|(name, version)| address(name, version))
            .collect();
        json!({ "ref": address_of(one), "dependsOn": needs })
    });
    let edges: Vec<Value> = std::iter::once(json!({ "ref": own, "dependsOn": all }))
        .chain(edges)
        .collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": name,
                "version": version,
                "purl": own,
                "licenses": [{ "expression": "Apache-2.0 OR MIT" }],
            },
        },
        "components": components,
        "dependencies": edges,
    });
    format!("{bill:#}\n")
}

fn component(one: &Dependency) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": address_of(one),
        "name": one.name,
        "version": one.version,
        "purl": address_of(one),
        // Old crates write "MIT/Apache-2.0" for what SPDX calls "OR".
        "licenses": [{ "expression": one.license.replace('/', " OR ") }],
    });
    if let Some(checksum) = &one.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn address_of(one: &Dependency) -> String {
    address(&one.name, &one.version)
}

/// <https://github.com/package-url/purl-spec>, type "cargo".
fn address(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::package::dependencies;

    #[test]
    fn every_reference_of_the_bill_is_a_component_of_it() {
        let all = dependencies::of(&["vpn-node", "vpn-node-updater"]).unwrap();
        let text = cyclonedx("vpn-node-agent", "1.2.0", &all);
        assert_eq!(text, cyclonedx("vpn-node-agent", "1.2.0", &all));
        let bill: Value = serde_json::from_str(&text).unwrap();
        let components = bill["components"].as_array().unwrap();
        assert_eq!(components.len(), all.len());
        let names: BTreeSet<&str> = components
            .iter()
            .map(|one| one["bom-ref"].as_str().unwrap())
            .chain(["pkg:generic/vpn-node-agent@1.2.0"])
            .collect();
        assert_eq!(names.len(), all.len() + 1);
        for edge in bill["dependencies"].as_array().unwrap() {
            assert!(names.contains(edge["ref"].as_str().unwrap()));
            for needed in edge["dependsOn"].as_array().unwrap() {
                assert!(names.contains(needed.as_str().unwrap()), "{needed}");
            }
        }
        for one in components {
            let license = one["licenses"][0]["expression"].as_str().unwrap();
            assert!(!license.contains('/'), "{license}");
        }
    }
}
