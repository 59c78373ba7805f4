//! What a case has done inside a command that a shell cannot do.

use std::process::ExitCode;

use rbuild::sandbox::RunSpec;

use crate::world::World;

/// The image's command line for `--inside` and these words.
pub fn command(world: &World, words: &[&str]) -> RunSpec {
    let loader = world.say("echo /lib64/ld-*");
    let loader = loader.trim();
    let mut args = Vec::new();
    if !loader.contains('*') {
        args.extend([loader, "--library-path", "/lib64"]);
    }
    args.extend(["/bin/inside", "--inside"]);
    args.extend(words);
    RunSpec { args: args.into_iter().map(str::to_owned).collect(), ..world.shell("") }
}

pub fn main(words: &[String]) -> ExitCode {
    match words.first().map(String::as_str) {
        Some("call") => {
            let numbers: Vec<i64> = words[1..].iter().filter_map(|word| word.parse().ok()).collect();
            println!("{}", call(&numbers));
        }
        Some("crash") => std::process::abort(),
        Some("connect") => {
            let mut said = String::new();
            let mut stream = std::os::unix::net::UnixStream::connect(&words[1]).unwrap();
            std::io::Read::read_to_string(&mut stream, &mut said).unwrap();
            println!("{said}");
        }
        Some("connect-abstract") => println!("{}", connect_abstract(&words[1])),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// Makes a system call with small numbers for arguments, none of which is a valid address. Gives errno, 0 if it worked.
fn call(numbers: &[i64]) -> i32 {
    let argument = |at: usize| numbers.get(at).copied().unwrap_or(0);
    // SAFETY: the calls that the cases name take numbers, or addresses that are not mapped and so answer EFAULT.
    let result = unsafe { libc::syscall(argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

fn connect_abstract(name: &str) -> String {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    match std::os::unix::net::UnixStream::connect_addr(&address) {
        Ok(_) => "connected".to_owned(),
        Err(error) => error.to_string(),
    }
}
