//! `RUN --device`: devices that this machine describes by CDI, the container device interface.
//!
//! Contract: what a specification says of device nodes, mounts and variables is given to the command; its hooks, which are
//! programs for a container runtime, are not run, and that is said. Which devices a name means and which of them a build
//! may have are BuildKit's rules (`cdidevices.Manager`, `ValidateEntitlements`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::step::Work;
use super::{AllowedDevices, ExecuteError};
use crate::plan::{Device, RunOp};
use crate::sandbox;

/// Where specifications are, the later ones counting more.
pub const CDI_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Stands for every device that has it, whatever their kind.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Needs no `--allow`.
const ALLOWED: &str = "org.mobyproject.buildkit.device.autoallow";

/// A specification file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Described>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// What a container gets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<BindMount>,
    hooks: Vec<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    additional_groups: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    host_path: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

/// A device by its full name.
#[derive(Debug, Clone)]
struct Registered {
    annotations: BTreeMap<String, String>,
    /// What every device of its specification brings; shared ones are given once.
    shared: (PathBuf, Edits),
    own: Edits,
}

/// The devices of this machine, by full name.
#[derive(Debug, Default)]
struct Registry {
    devices: BTreeMap<String, Registered>,
    /// Files that describe devices in a form that is not read.
    unread: Vec<PathBuf>,
}

impl Registry {
    fn load(directories: &[PathBuf]) -> Result<Registry, String> {
        let mut registry = Registry::default();
        for directory in directories {
            let mut here: BTreeMap<String, Registered> = BTreeMap::new();
            let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
                Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("cannot read {}: {error}", directory.display())),
            };
            files.sort();
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("json") => Registry::read(&file, &mut here)?,
                    Some("yaml" | "yml") => registry.unread.push(file),
                    _ => {}
                }
            }
            registry.devices.append(&mut here);
        }
        Ok(registry)
    }

    fn read(file: &Path, devices: &mut BTreeMap<String, Registered>) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", file.display());
        let bytes = std::fs::read(file).map_err(|error| failed(&error))?;
        let specification: Specification = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
        for Described { name, annotations, container_edits } in specification.devices {
            let mut all = specification.annotations.clone();
            all.extend(annotations);
            let shared = (file.to_owned(), specification.container_edits.clone());
            let device = Registered { annotations: all, shared, own: container_edits };
            devices.entry(format!("{}={name}", specification.kind)).or_insert(device);
        }
        Ok(())
    }

    /// The full names that a name means: one device, the first or all of a kind, or those of a class.
    fn named(&self, name: &str) -> Vec<String> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let of_kind =
            || self.devices.keys().filter(|full| full.strip_prefix(kind).is_some_and(|rest| rest.starts_with('=')));
        let found: Vec<String> = match device {
            _ if !kind.contains('/') => Vec::new(),
            "" => of_kind().take(1).cloned().collect(),
            "*" => of_kind().cloned().collect(),
            _ => self.devices.contains_key(name).then(|| name.to_owned()).into_iter().collect(),
        };
        if !found.is_empty() {
            return found;
        }
        let has_class = |device: &Registered| device.annotations.get(CLASS).is_some_and(|class| class == name);
        self.devices.iter().filter(|(_, device)| has_class(device)).map(|(full, _)| full.clone()).collect()
    }

    fn is_allowed_by_itself(&self, name: &str) -> bool {
        let value = self.devices.get(name).and_then(|device| device.annotations.get(ALLOWED));
        value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// The devices that a command gets, each once; and the names of optional ones that there are not.
    fn granted(&self, wanted: &[Device], allowed: &AllowedDevices) -> Result<(Vec<String>, Vec<String>), String> {
        let names = match allowed {
            AllowedDevices::Named(names) => names.clone(),
            AllowedDevices::All | AllowedDevices::None => BTreeMap::new(),
        };
        let by_name: BTreeSet<String> = names.values().flat_map(|name| self.named(name)).collect();
        let (mut granted, mut missing, mut forbidden): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
        for Device { name, required } in wanted {
            let found = self.named(names.get(name).unwrap_or(name));
            if found.is_empty() && *required {
                return Err(self.not_registered(name));
            }
            if found.is_empty() {
                missing.push(name.clone());
            }
            for device in found {
                let may =
                    *allowed == AllowedDevices::All || by_name.contains(&device) || self.is_allowed_by_itself(&device);
                let list = if may { &mut granted } else { &mut forbidden };
                if !list.contains(&device) {
                    list.push(device);
                }
            }
        }
        match forbidden.as_slice() {
            [] => Ok((granted, missing)),
            [one] => Err(format!(
                "device {one} is requested by the build but not allowed; give --allow device={one} if you trust this \
                 Dockerfile"
            )),
            several => Err(format!(
                "devices {} are requested by the build but not allowed; give --allow device if you trust this Dockerfile",
                several.join(", ")
            )),
        }
    }

    fn not_registered(&self, name: &str) -> String {
        let mut message = format!("required device {name:?} is not registered");
        if let Some(full) = crate::diagnostic::did_you_mean(name, self.devices.keys().map(String::as_str)) {
            message += &format!("; did you mean {full}?");
        } else if let Some(file) = self.unread.first() {
            message += &format!("; only specifications in JSON are read, which {} is not", file.display());
        } else {
            message += "; a CDI specification in /etc/cdi or /var/run/cdi has to describe it";
        }
        message
    }

    /// What the granted devices bring: what a specification says of all its devices comes first, once.
    fn edits<'a>(&'a self, granted: &[String]) -> Vec<(&'a str, &'a Edits)> {
        let mut files = BTreeSet::new();
        let mut edits = Vec::new();
        for (name, device) in granted.iter().filter_map(|name| self.devices.get_key_value(name)) {
            if files.insert(&device.shared.0) {
                edits.push((name.as_str(), &device.shared.1));
            }
            edits.push((name.as_str(), &device.own));
        }
        edits
    }
}

/// What devices add to a command.
#[derive(Default)]
pub(super) struct DeviceEdits {
    pub(super) mounts: Vec<sandbox::Mount>,
    pub(super) env: Vec<(String, String)>,
    pub(super) groups: Vec<u32>,
}

impl Work<'_> {
    /// Refuses a command that asks for devices that it may not have, or that are not there and have to be.
    pub(super) fn check_devices(&self, op: &RunOp) -> Result<(), ExecuteError> {
        if op.devices.is_empty() {
            return Ok(());
        }
        let registry = self.registry()?;
        registry.granted(&op.devices, &self.services.options.allow.devices).map_err(|text| self.refuse(text))?;
        Ok(())
    }

    /// What the devices of a command add to it.
    pub(super) fn device_edits(&self, op: &RunOp) -> Result<DeviceEdits, ExecuteError> {
        let mut added = DeviceEdits::default();
        if op.devices.is_empty() {
            return Ok(added);
        }
        let registry = self.registry()?;
        let allowed = &self.services.options.allow.devices;
        let (granted, missing) = registry.granted(&op.devices, allowed).map_err(|text| self.refuse(text))?;
        for name in missing {
            self.task.note(format!("optional device {name:?} is not registered"));
        }
        for (name, edits) in registry.edits(&granted) {
            if !edits.hooks.is_empty() {
                self.task.note(format!("hooks of device {name} are not run: they are for container runtimes"));
            }
            added.take(edits);
        }
        Ok(added)
    }

    fn registry(&self) -> Result<Registry, ExecuteError> {
        Registry::load(&self.services.options.cdi_directories).map_err(|text| self.refuse(text))
    }
}

impl DeviceEdits {
    fn take(&mut self, edits: &Edits) {
        for node in &edits.device_nodes {
            let path = node.host_path.clone().unwrap_or_else(|| PathBuf::from(&node.path));
            self.mounts.push(sandbox::Mount { target: node.path.clone(), kind: sandbox::MountKind::Device { path } });
        }
        for mount in &edits.mounts {
            let is_read_only = mount.options.iter().any(|option| option == "ro");
            let access = if is_read_only { sandbox::Access::ReadOnly } else { sandbox::Access::ReadWrite };
            let (source_root, source) = match (mount.host_path.parent(), mount.host_path.file_name()) {
                (Some(parent), Some(name)) => (parent.to_owned(), name.as_encoded_bytes().to_vec()),
                _ => (mount.host_path.clone(), Vec::new()),
            };
            let kind = sandbox::MountKind::Bind { source_root, source, access };
            self.mounts.push(sandbox::Mount { target: mount.container_path.clone(), kind });
        }
        let pairs = edits.env.iter().filter_map(|pair| pair.split_once('='));
        self.env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.groups.extend(&edits.additional_groups);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let directory = tempfile::tempdir().expect("make a directory");
        let (low, high) = (directory.path().join("low"), directory.path().join("high"));
        for (path, text) in [
            (
                low.join("a.json"),
                r#"{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","annotations":{"org.mobyproject.buildkit.device.class":"ai"},
                "containerEdits":{"env":["ALL=1"]},
                "devices":[{"name":"0","containerEdits":{"env":["N=low"]}},{"name":"1","containerEdits":{"env":["N=1"]}}]}"#,
            ),
            (
                high.join("b.json"),
                r#"{"kind":"vendor.com/gpu","devices":[{"name":"0","containerEdits":{"env":["N=high"]}}]}"#,
            ),
            (
                high.join("c.json"),
                r#"{"kind":"vendor.com/free","devices":[{"name":"x","annotations":{"org.mobyproject.buildkit.device.autoallow":"true"}}]}"#,
            ),
            (high.join("d.yaml"), "kind: vendor.com/yaml"),
        ] {
            std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("make a directory");
            std::fs::write(path, text).expect("write a specification");
        }
        Registry::load(&[directory.path().join("none"), low, high]).expect("read the specifications")
    }

    #[test]
    fn a_name_means_one_device_the_first_of_a_kind_all_of_it_or_a_class() {
        let registry = registry();
        for (name, found) in [
            ("vendor.com/gpu=1", &["vendor.com/gpu=1"][..]),
            ("vendor.com/gpu", &["vendor.com/gpu=0"]),
            ("vendor.com/gpu=*", &["vendor.com/gpu=0", "vendor.com/gpu=1"]),
            ("ai", &["vendor.com/gpu=1"]),
            ("vendor.com/gpu=7", &[]),
            ("vendor.com/gp", &[]),
            ("gpu", &[]),
        ] {
            assert_eq!(registry.named(name), found, "{name}");
        }
        assert_eq!(registry.devices["vendor.com/gpu=0"].own.env, ["N=high"], "the later directory counts");
    }

    #[test]
    fn what_a_build_may_have_is_given_the_rest_is_refused() {
        let registry = registry();
        let wanted = |name: &str, required| vec![Device { name: name.to_owned(), required }];
        let named =
            |name: &str, real: &str| AllowedDevices::Named(BTreeMap::from([(name.to_owned(), real.to_owned())]));
        let one = |name: &str| Ok((vec![name.to_owned()], Vec::new()));
        let gpu = wanted("vendor.com/gpu=1", false);
        assert_eq!(registry.granted(&gpu, &AllowedDevices::All), one("vendor.com/gpu=1"));
        assert_eq!(registry.granted(&gpu, &named("vendor.com/gpu=*", "vendor.com/gpu=*")), one("vendor.com/gpu=1"));
        assert_eq!(
            registry.granted(&wanted("mine", true), &named("mine", "vendor.com/gpu=1")),
            one("vendor.com/gpu=1")
        );
        assert_eq!(registry.granted(&wanted("vendor.com/free", true), &AllowedDevices::None), one("vendor.com/free=x"));
        let refused = registry.granted(&gpu, &AllowedDevices::None).expect_err("it was not allowed");
        assert!(refused.starts_with("device vendor.com/gpu=1 is requested by the build but not allowed"), "{refused}");
        let several =
            registry.granted(&wanted("vendor.com/gpu=*", false), &AllowedDevices::None).expect_err("not allowed");
        assert!(several.starts_with("devices vendor.com/gpu=0, vendor.com/gpu=1 are requested"), "{several}");
        let missing = registry.granted(&wanted("other.com/a=b", false), &AllowedDevices::None);
        assert_eq!(missing, Ok((Vec::new(), vec!["other.com/a=b".to_owned()])));
        let required =
            registry.granted(&wanted("other.com/a=b", true), &AllowedDevices::All).expect_err("it is required");
        assert!(required.starts_with("required device \"other.com/a=b\" is not registered; only"), "{required}");
        let near = registry.granted(&wanted("vendor.com/gpu=2", true), &AllowedDevices::All).expect_err("not there");
        assert!(near.ends_with("did you mean vendor.com/gpu=0?"), "{near}");
    }

    #[test]
    fn what_all_devices_of_a_specification_bring_comes_first_and_once() {
        let registry = registry();
        let granted = ["vendor.com/gpu=1".to_owned(), "vendor.com/gpu=0".to_owned()];
        let mut added = DeviceEdits::default();
        registry.edits(&granted).into_iter().for_each(|(_, edits)| added.take(edits));
        let env: Vec<String> = added.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["ALL=1", "N=1", "N=high"]);
    }
}
