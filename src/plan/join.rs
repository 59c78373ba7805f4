//! Plans of one Dockerfile for several platforms, made one graph: what they have in common is in it once.
//!
//! Two steps are the same where they do the same to the same: a stage on `--platform=$BUILDPLATFORM` that does not ask for
//! the target is the same for every target, up to the instruction that does.

use super::graph::with_sources;
use super::{Plan, Step, StepId};
use crate::image::platform::Platform;

/// Joins plans, each for one platform; `None` where there are none.
///
/// The joined plan's results are in the order of the plans. One plan alone stays as it is.
pub fn join(plans: Vec<(Platform, Plan)>) -> Option<Plan> {
    let mut plans = plans.into_iter();
    let (first, mut joined) = plans.next()?;
    if plans.len() > 0 {
        joined.steps.iter_mut().for_each(|step| step.platforms.push(first.clone()));
    }
    for (platform, plan) in plans {
        add(&mut joined, plan, &platform);
    }
    Some(joined)
}

fn add(joined: &mut Plan, plan: Plan, platform: &Platform) {
    let mut numbers: Vec<StepId> = Vec::with_capacity(plan.steps.len());
    for step in plan.steps {
        let renumber = |id: StepId| numbers[id.index()];
        let mut inputs: Vec<StepId> = step.inputs.iter().map(|id| renumber(*id)).collect();
        inputs.sort();
        let (op, parent) = (with_sources(step.op, &renumber), step.parent.map(renumber));
        let step = Step { op, parent, inputs, ..step };
        let same = joined.steps.iter_mut().find(|known| is_same(known, &step));
        numbers.push(match same {
            Some(known) => {
                known.platforms.push(platform.clone());
                known.id
            }
            None => {
                let id = StepId::new(joined.steps.len());
                joined.steps.push(Step { id, platforms: vec![platform.clone()], ..step });
                id
            }
        });
    }
    let renumber = |id: StepId| numbers[id.index()];
    let mut result = plan.result;
    result.step = renumber(result.step);
    for entry in &mut result.history {
        entry.layer = entry.layer.map(renumber);
    }
    joined.others.push(result);
    for (known, stage) in joined.stages.iter_mut().zip(plan.stages) {
        known.step = known.step.or(stage.step.map(renumber));
    }
    add_new(&mut joined.warnings, plan.warnings);
    add_new(&mut joined.arguments, plan.arguments);
    add_new(&mut joined.context_paths, plan.context_paths);
}

/// Whether two steps of one graph do the same. Their titles may differ in the platform, and an image that several stages
/// start from is that of the first of them, which may be another one for another platform.
fn is_same(known: &Step, step: &Step) -> bool {
    if known.parent.is_none() && step.parent.is_none() {
        return known.op == step.op;
    }
    let Step { id: _, title: _, span, stage, op, parent, inputs, ignore_cache_name, platforms: _ } = known;
    (span, stage, parent) == (&step.span, &step.stage, &step.parent)
        && (op, inputs, ignore_cache_name) == (&step.op, &step.inputs, &step.ignore_cache_name)
}

fn add_new<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !known.contains(&one) {
            known.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::diagnostic::Source;
    use crate::plan::{BaseKey, BaseSource, Options, Titles, plan};

    fn planned(text: &str, platform: &str) -> (Platform, Plan) {
        let parsed = crate::dockerfile::parse(&Source::new("Dockerfile", text));
        let platform: Platform = platform.parse().unwrap();
        let bases: BTreeMap<BaseKey, _> = ["linux/amd64", "linux/arm64"]
            .map(|platform| {
                let platform: Platform = platform.parse().unwrap();
                let config = format!(
                    r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
                    platform.architecture
                );
                let source = BaseSource::Image("base:latest".parse().unwrap());
                (BaseKey { source, platform }, crate::image::config::ImageConfig::parse(config.as_bytes()).unwrap())
            })
            .into();
        let options = Options {
            platform: Some(platform.clone()),
            build_platform: "linux/amd64".parse().unwrap(),
            titles: Titles::WithPlatform,
            ..Options::default()
        };
        (platform, plan(&parsed.dockerfile, &options, &bases).unwrap())
    }

    fn joined(text: &str) -> Plan {
        let plan = join(["linux/amd64", "linux/arm64"].map(|platform| planned(text, platform)).into()).unwrap();
        for (number, step) in plan.steps.iter().enumerate() {
            assert_eq!(step.id.index(), number);
            assert!(step.inputs.iter().all(|input| input.index() < number), "{plan}");
        }
        plan
    }

    fn titles(plan: &Plan) -> Vec<(&str, usize)> {
        plan.steps.iter().map(|step| (step.title.as_str(), step.platforms.len())).collect()
    }

    #[test]
    fn what_is_built_on_the_building_machine_is_shared_until_it_asks_for_the_target() {
        let plan = joined(
            "FROM --platform=$BUILDPLATFORM base AS build\nRUN get\nARG TARGETARCH\nRUN make\nFROM base\nCOPY --from=build /a /a\n",
        );
        assert_eq!(
            titles(&plan),
            [
                ("[linux/amd64 build 1/3] FROM docker.io/library/base:latest", 2),
                ("[linux/amd64 build 2/3] RUN get", 2),
                ("[linux/amd64 build 3/3] RUN make", 1),
                ("[linux/amd64 stage-1 2/2] COPY --from=build /a /a", 1),
                ("[linux/amd64->arm64 build 3/3] RUN make", 1),
                ("[linux/arm64 stage-1 1/2] FROM docker.io/library/base:latest", 1),
                ("[linux/arm64 stage-1 2/2] COPY --from=build /a /a", 1),
            ]
        );
        let results: Vec<(String, usize)> =
            plan.results().map(|result| (result.config.platform().to_string(), result.step.index())).collect();
        assert_eq!(results, [("linux/amd64".to_owned(), 3), ("linux/arm64".to_owned(), 6)]);
        assert_eq!(plan.others[0].history[0].layer, Some(StepId::new(6)));
    }

    #[test]
    fn an_image_is_shared_whichever_stage_starts_from_it() {
        let text = "FROM base AS own\nFROM --platform=$BUILDPLATFORM base AS build\nRUN make\nFROM own\nCOPY --from=build /a /\n";
        let plan = joined(text);
        let shared: Vec<&str> =
            plan.steps.iter().filter(|step| step.platforms.len() == 2).map(|step| step.title.as_str()).collect();
        assert_eq!(shared.last(), Some(&"[linux/amd64 build 2/2] RUN make"), "{plan}");
        assert_eq!(shared.len(), 2, "{plan}");
    }

    #[test]
    fn stages_for_their_own_platforms_share_nothing() {
        let plan = joined("FROM scratch\nCOPY a /\n");
        assert!(plan.steps.iter().all(|step| step.platforms.len() == 1), "{plan}");
        assert_eq!(plan.steps.len(), 4);
    }

    #[test]
    fn one_plan_stays_as_it_is() {
        let (platform, plan) = planned("FROM base\nRUN a\n", "linux/arm64");
        assert_eq!(join(vec![(platform, plan.clone())]), Some(plan));
        assert_eq!(join(Vec::new()), None);
    }
}
