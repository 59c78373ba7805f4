//! The main job: each example is built and pushed, a second build does nothing, an edit does only what it must, and what was
//! pushed is an image to everybody else's tools and answers when it is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bases::Base;
use crate::container::{self, Container};
use crate::harness::{Files, Rbuild, User, has_program, skopeo, succeed, suite_user};
use crate::image::Image;
use crate::registry_server::{Access, Registry, missing_programs};

/// An example that was built and pushed.
struct Pushed {
    rbuild: Rbuild,
    registry: Registry,
    context: Files,
    name: String,
    base: String,
}

/// Builds and pushes an example on its base; an error says what the machine lacks.
fn build_and_push(mut rbuild: Rbuild, example: &str, base: Base) -> Result<Pushed, String> {
    if let Some(program) = missing_programs(Access::Plain) {
        return Err(format!("{program} is not installed"));
    }
    rbuild.reach_the_network();
    let registry = Registry::start(Access::Plain);
    let base = format!("BASE={}", base.push(&registry)?);
    let context = rbuild.example(example);
    let name = registry.name(&format!("examples/{example}:1"));
    let pushed = Pushed { rbuild, registry, context, name, base };
    let run = pushed.build(&["--push"]).succeeded();
    let manifest = pushed.registry.fetch(&format!("/v2/examples/{example}/manifests/1"));
    assert!(manifest.contains(&run.image_id()), "the registry has another image than {}: {manifest}", run.image_id());
    Ok(pushed)
}

impl Pushed {
    fn build(&self, more: &[&str]) -> crate::harness::Run {
        let arguments = ["--build-arg", &self.base, "-t", &self.name];
        self.rbuild.build(&self.context, &[&arguments, more].concat())
    }

    /// A second build takes everything from the cache and gives the same image, and a second push moves nothing.
    fn second_build_does_nothing(&self) {
        let id = self.build(&[]).succeeded().all_cached().image_id();
        let uploads = self.registry.uploads();
        let run = self.build(&["--push"]).succeeded().all_cached();
        assert_eq!(run.image_id(), id, "a build of only cached steps gave another image");
        assert_eq!(self.registry.uploads(), uploads, "a push of what is there moved bytes:\n{}", self.registry.log());
    }

    /// Writes the image as an OCI archive.
    fn archive(&self) -> PathBuf {
        let archive = self.rbuild.path("out/image.tar");
        self.build(&["-o", &format!("type=oci,dest={}", archive.display())]).succeeded().all_cached();
        archive
    }

    /// The readers of other projects accept what was pushed, and what was written.
    fn is_an_image_to_others(&self) {
        let archive = self.archive();
        let image = Image::read(&archive);
        let remote = format!("docker://{}", self.name);
        let skopeo = |arguments: &[&str]| succeed(&mut skopeo(arguments)).stdout;
        let needs_umoci = self.rbuild.user == suite_user();
        if !has_program("skopeo") || (needs_umoci && !has_program("umoci")) {
            skip!("skopeo or umoci is not installed");
        }
        let inspected = String::from_utf8(skopeo(&["inspect", "--tls-verify=false", &remote])).expect("JSON is UTF-8");
        assert!(inspected.contains("\"Digest\""), "skopeo cannot read what was pushed: {inspected}");
        let place = tempfile::tempdir().expect("create a directory");
        let layout = place.path().join("layout");
        let target = format!("oci:{}:x", layout.display());
        // skopeo checks every digest on the way.
        skopeo(&["copy", "--quiet", "--src-tls-verify=false", &remote, &target]);
        let pulled = Image::read(&layout);
        assert_eq!(pulled.id, image.id, "the registry and the archive hold different images");
        // It takes most of a minute for an image, and the layers of the other users hold the same files.
        if needs_umoci {
            self.unpacks_with_umoci(&layout, place.path());
        }
    }

    fn unpacks_with_umoci(&self, layout: &Path, place: &Path) {
        let mut unpack = Command::new("umoci");
        unpack.args(["unpack", "--image", &format!("{}:x", layout.display())]);
        if suite_user() != User::Root {
            unpack.arg("--rootless");
        }
        succeed(unpack.arg(place.join("bundle")));
        assert!(place.join("bundle/rootfs").is_dir(), "umoci unpacked nothing");
        // umoci keeps directories without write permission, which an unprivileged user cannot remove as they are.
        succeed(Command::new("chmod").args(["-R", "u+rwX"]).arg(place));
    }

    /// The page that the started image serves.
    fn page(&self, port: u16, path: &str) -> Option<String> {
        if !container::may_start() {
            eprintln!("not applicable: only a suite of root starts containers");
            return None;
        }
        if let Some(reason) = container::missing() {
            assert!(std::env::var_os("CI").is_none(), "would be skipped: {reason}");
            eprintln!("SKIPPED: the page: {reason}");
            return None;
        }
        Some(Container::start(&self.archive()).page(port, path))
    }
}

fn has(image: &Path, file: &str) -> bool {
    Image::read(image).files().contains_key(file)
}

for_each_user! {
    fn node_express(rbuild) {
        let pushed = match build_and_push(rbuild, "node-express", Base::Node) {
            Ok(pushed) => pushed,
            Err(reason) => skip!("{reason}"),
        };
        pushed.second_build_does_nothing();
        pushed.is_an_image_to_others();
        if let Some(page) = pushed.page(8080, "/") {
            assert_eq!(page, "Hello from Express\n");
        }

        pushed.context.edit("app.js", "Hello from", "Greetings from");
        let edited = pushed.build(&[]).succeeded();
        assert_eq!(edited.step("RUN npm install"), "CACHED", "an edit of app.js installed packages:\n{}", edited.stderr);
        assert_eq!(edited.step("COPY . ."), "DONE", "the edit of app.js was not seen:\n{}", edited.stderr);
        assert!(Image::read(&pushed.archive()).content("/usr/src/app/app.js").contains("Greetings from"));

        fs::create_dir(pushed.context.directory.join("node_modules")).expect("create node_modules");
        fs::write(pushed.context.directory.join("node_modules/x.js"), "").expect("write an ignored file");
        pushed.build(&[]).succeeded().all_cached();

        pushed.context.edit("package.json", "1.0.0", "1.0.1");
        let edited = pushed.build(&[]).succeeded();
        assert_eq!(edited.step("RUN npm install"), "DONE", "an edit of package.json was not seen:\n{}", edited.stderr);
        let archive = pushed.archive();
        assert!(has(&archive, "/usr/src/app/node_modules/express/package.json"), "npm installed nothing");
        assert!(!has(&archive, "/usr/src/app/node_modules/x.js"), ".dockerignore did not hold");
    }

    fn apache(rbuild) {
        let pushed = match build_and_push(rbuild, "apache", Base::Debian) {
            Ok(pushed) => pushed,
            Err(reason) => skip!("{reason}"),
        };
        pushed.second_build_does_nothing();
        pushed.is_an_image_to_others();
        if let Some(page) = pushed.page(80, "/") {
            assert!(page.contains("Hello from Apache"), "{page}");
        }
        if let Some(page) = pushed.page(80, "/eng.html") {
            assert_eq!(page, "<h1>Hello</h1>\n");
        }
        pushed.context.edit("index.html", "Hello from", "Greetings from");
        let edited = pushed.build(&[]).succeeded();
        assert_eq!(edited.step("RUN apt-get install"), "CACHED", "{}", edited.stderr);
        assert_eq!(edited.step("ADD index.html"), "DONE", "{}", edited.stderr);
    }

    fn flask(rbuild) {
        let pushed = match build_and_push(rbuild, "flask", Base::Python) {
            Ok(pushed) => pushed,
            Err(reason) => skip!("{reason}"),
        };
        pushed.second_build_does_nothing();
        pushed.is_an_image_to_others();
        if let Some(page) = pushed.page(5000, "/") {
            assert_eq!(page, "Hello from Flask\n");
        }
        pushed.context.edit("app.py", "Hello from", "Greetings from");
        let edited = pushed.build(&[]).succeeded();
        assert_eq!(edited.step("RUN pip install"), "CACHED", "{}", edited.stderr);
    }

    fn multi_stage(rbuild) {
        let pushed = match build_and_push(rbuild, "multi-stage", Base::Debian) {
            Ok(pushed) => pushed,
            Err(reason) => skip!("{reason}"),
        };
        pushed.second_build_does_nothing();
        pushed.is_an_image_to_others();
        let archive = pushed.archive();
        let files: Vec<String> = Image::read(&archive).files().into_keys().filter(|path| path != "/").collect();
        assert_eq!(files, ["/data", "/data/page.txt", "/data/release.txt", "/hello"]);
        if container::may_start() && container::missing().is_none() {
            assert!(Container::start(&archive).output().starts_with("built on Debian"));
        }
    }
}
