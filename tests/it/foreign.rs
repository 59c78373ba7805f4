//! Images of other processors: their commands run where an emulator is registered, and are refused before anything runs
//! where none is.
//!
//! What is registered is a user namespace's own (Linux 6.7), so nothing of the machine is changed or counts here.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::{Files, Rbuild, Run, finish};

const EMULATOR: &str = "qemu-aarch64-static";

/// An arm64 program that writes "arm64 runs" and ends with 42.
fn program() -> Vec<u8> {
    let code: [u32; 8] = [
        0xd280_0020, // mov x0, #1
        0x1000_00e1, // adr x1, the text
        0xd280_0162, // mov x2, #11
        0xd280_0808, // mov x8, #64 (write)
        0xd400_0001, // svc #0
        0xd280_0540, // mov x0, #42
        0xd280_0ba8, // mov x8, #93 (exit)
        0xd400_0001, // svc #0
    ];
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    bytes.extend([0x1_0078_u64, 64, 0].map(u64::to_le_bytes).concat());
    bytes.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    bytes.extend([0_u64, 0x1_0000, 0x1_0000, 163, 163, 0x1_0000].map(u64::to_le_bytes).concat());
    bytes.extend(code.map(u32::to_le_bytes).concat());
    bytes.extend(b"arm64 runs\n");
    bytes
}

fn context(rbuild: &Rbuild) -> Files {
    let context = rbuild.context("foreign").file("Dockerfile", "FROM scratch\nCOPY program /\nRUN [\"/program\"]\n");
    let file = context.directory.join("program");
    std::fs::write(&file, program()).expect("write the program");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
    context
}

/// Builds where this alone is registered: the emulator with these flags, or nothing.
fn build(rbuild: &Rbuild, emulator: Option<(&PathBuf, &str)>) -> Result<Run, String> {
    let context = context(rbuild);
    let register = emulator.map(|(path, flags)| {
        let header = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
        let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
        format!(
            "printf %s ':emulator:M::{header}:{mask}:{}:{flags}' > $registered/register || exit 98; ",
            path.display()
        )
    });
    let script = format!(
        "registered=/proc/sys/fs/binfmt_misc; mount -t binfmt_misc none $registered || exit 99; {}exec \"$@\"",
        register.unwrap_or_default()
    );
    let (program, context) = (rbuild.program(), context.directory);
    let arguments: [&std::ffi::OsStr; 14] = [
        "--user".as_ref(),
        "--map-root-user".as_ref(),
        "--mount".as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
        "sh".as_ref(),
        program.as_os_str(),
        "build".as_ref(),
        "--progress".as_ref(),
        "plain".as_ref(),
        "--platform".as_ref(),
        "linux/arm64".as_ref(),
        context.as_os_str(),
    ];
    let run = finish(rbuild.command_of("unshare", arguments).spawn().expect("start unshare"));
    match run.code {
        Some(98 | 99) => Err(format!("a user namespace has no binfmt_misc of its own here: {}", run.stderr)),
        _ => Ok(run),
    }
}

/// The emulator, if it is installed (`RBUILD_TEST_EMULATOR` names it elsewhere).
fn emulator() -> Option<PathBuf> {
    let named = std::env::var_os("RBUILD_TEST_EMULATOR").map(PathBuf::from);
    let usual = PathBuf::from("/usr/bin").join(EMULATOR);
    named.or(Some(usual)).filter(|path| path.is_file())
}

for_each_user! {
    fn without_an_emulator_nothing_runs(rbuild) {
        if std::env::consts::ARCH == "aarch64" {
            skip!("its programs are this machine's own");
        }
        match build(&rbuild, None) {
            Err(reason) => skip!("{reason}"),
            Ok(run) => run
                .failed(1)
                .says("run commands of arm64 images: no emulator (qemu-aarch64) is registered with binfmt_misc")
                .says("apt-get install qemu-user-static")
                .does_not_say("COPY"),
        };
    }

    fn with_an_emulator_its_commands_run(rbuild) {
        let Some(emulator) = emulator() else { skip!("{EMULATOR} is not installed") };
        match build(&rbuild, Some((&emulator, "F"))) {
            Err(reason) => skip!("{reason}"),
            Ok(run) => run.failed(42).says(" arm64 runs\n"),
        };
    }

    fn an_emulator_that_images_cannot_reach_is_refused(rbuild) {
        let Some(emulator) = emulator() else { skip!("{EMULATOR} is not installed") };
        match build(&rbuild, Some((&emulator, ""))) {
            Err(reason) => skip!("{reason}"),
            Ok(run) => run.failed(1).says("is registered without the flag F").does_not_say("COPY"),
        };
    }
}
