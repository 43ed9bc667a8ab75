"""When images are built, shared among callers, and removed."""

import asyncio
import threading

import pytest

from orchestrator.containers.memory import until_terminated
from orchestrator.containers.spec import ContainerSpec
from orchestrator.errors import BuildError, EngineUnreachableError, NotFoundError
from orchestrator.loader.image_plan import ImagePlan


async def test_a_plugin_is_built_on_the_base_and_both_only_once(workshop):
    builder = workshop.builder()
    first = await builder.ensure_plugin(workshop.recipe())
    again = await builder.ensure_plugin(workshop.recipe())
    elsewhere = await workshop.builder().ensure_plugin(workshop.recipe())
    assert first.id == again.id == elsewhere.id
    assert workshop.built() == ["base", "plugin-reader"]
    assert first.tags[0].startswith("plugin-orchestrator/plugin-reader:")
    assert first.labels["plugin-orchestrator.plugin"] == "reader"
    assert first.labels["plugin-orchestrator.content-hash"].startswith(first.tags[0].rsplit(":")[-1])


async def test_changed_code_builds_the_plugin_and_not_the_base(workshop):
    builder = workshop.builder()
    first = await builder.ensure_plugin(workshop.recipe())
    (workshop.plugin() / "package" / "__init__.py").write_text("changed")
    second = await builder.ensure_plugin(workshop.recipe())
    assert second.id != first.id
    assert workshop.built() == ["base", "plugin-reader", "plugin-reader"]


async def test_changed_limits_or_samples_build_nothing(workshop):
    builder = workshop.builder()
    await builder.ensure_plugin(workshop.recipe())
    (workshop.plugin() / "plugin.yaml").write_text("version: 2")
    (workshop.plugin() / "samples").mkdir()
    (workshop.plugin() / "samples" / "x").touch()
    await builder.ensure_plugin(workshop.recipe())
    assert workshop.built() == ["base", "plugin-reader"]


async def test_packages_are_installed_before_the_code_and_what_they_name_is_there_once(workshop):
    contexts = []

    def remember(context):
        files = (path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file())
        contexts.append(sorted(files))

    async def install(installation, on_output):
        remember(installation.files)
        return await engine_install(installation, on_output)

    async def build(context, **request):
        remember(context)
        return await engine_build(context, **request)

    builder = workshop.builder()
    await builder.ensure_base()
    engine_install, workshop.engine.install = workshop.engine.install, install
    engine_build, workshop.engine.build = workshop.engine.build, build
    (workshop.plugin() / "vendor").mkdir()
    (workshop.plugin() / "vendor" / "x.whl").touch()
    (workshop.plugin() / "requirements.txt").write_text("./vendor/x.whl\n")
    await builder.ensure_plugin(workshop.recipe())
    assert contexts == [
        ["install/pip.conf", "install/proxies", "plugin/requirements.txt", "plugin/vendor/x.whl"],
        ["Dockerfile", "plugin/package/__init__.py"],
    ]


async def test_changed_packages_are_installed_and_the_plugin_built_on_them(workshop):
    builder = workshop.builder()
    await builder.ensure_plugin(workshop.recipe())
    await builder.ensure_plugin(workshop.recipe(system_packages=("libgl1",)))
    assert workshop.built() == ["base", "plugin-reader", "packages-reader", "plugin-reader"]
    packages, code = workshop.engine.image_store.builds[-2:]
    assert "libgl1" in packages.dockerfile
    assert code.dockerfile.startswith(f"FROM {packages.tag}\n")
    (workshop.plugin() / "package" / "__init__.py").write_text("changed")
    await builder.ensure_plugin(workshop.recipe(system_packages=("libgl1",)))
    assert workshop.built()[4:] == ["plugin-reader"]
    assert (await builder.newest("reader")).tags[0].startswith("plugin-orchestrator/plugin-reader:")


async def test_each_plugin_has_downloads_of_its_own(workshop):
    volumes = []

    async def install(installation, on_output):
        volumes.append(installation.volume)
        return await engine_install(installation, on_output)

    engine_install, workshop.engine.install = workshop.engine.install, install
    for name in ("a1", "b2"):
        await workshop.builder().ensure_plugin(workshop.recipe(name, system_packages=("libgl1",)))
    assert volumes == ["plugin-orchestrator-downloads-a1", "plugin-orchestrator-downloads-b2"]


async def test_what_a_killed_orchestrator_was_installing_is_removed_and_nothing_else(workshop, tmp_path):
    builder, other = workshop.builder(), workshop.builder(logs_dir=tmp_path / "others")
    instance = {**builder._owner, "plugin-orchestrator.plugin": "reader"}
    own, others, running = [
        await workshop.engine.create(
            ContainerSpec(name=name, image="python:test", labels=labels, environment={}, memory=1, pids=1)
        )
        for name, labels in (("a", builder._owner), ("b", other._owner), ("c", instance))
    ]
    await builder.clear_leftovers()
    with pytest.raises(NotFoundError):
        await workshop.engine.inspect(own)
    assert (await workshop.engine.inspect(others)).id == others
    assert (await workshop.engine.inspect(running)).id == running


async def test_a_changed_runtime_builds_everything(workshop):
    await workshop.builder().ensure_plugin(workshop.recipe())
    (workshop.folder / "plugin-images" / "runtime" / "src" / "runtime.py").write_text("x = 2\n")
    await workshop.builder().ensure_plugin(workshop.recipe())
    assert workshop.built() == ["base", "plugin-reader"] * 2


async def test_a_new_python_image_builds_everything(workshop):
    await workshop.builder().ensure_plugin(workshop.recipe())
    workshop.engine.add_image("python:test", until_terminated)
    await workshop.builder().ensure_plugin(workshop.recipe())
    assert workshop.built() == ["base", "plugin-reader"] * 2


async def test_a_pruned_python_image_builds_nothing(workshop):
    await workshop.builder().ensure_plugin(workshop.recipe())
    await workshop.engine.remove_image("python:test")
    await workshop.builder().ensure_plugin(workshop.recipe())
    assert workshop.built() == ["base", "plugin-reader"]


async def test_a_missing_python_image_is_pulled(workshop):
    workshop.engine.image_store.registry["python:3.11-slim"] = until_terminated
    await workshop.builder(python_image="python:3.11-slim").ensure_base()
    assert workshop.engine.image_store.builds[0].build_args["PYTHON_IMAGE"] == "python:3.11-slim"


async def test_a_python_image_that_cannot_be_pulled_says_what_to_do(workshop):
    with pytest.raises(NotFoundError, match=r"python:none is not on this host.*`make up`.*ORCHESTRATOR_PYTHON_IMAGE"):
        await workshop.builder(python_image="python:none").ensure_base()


async def test_a_changed_ca_bundle_builds_the_base(workshop):
    bundle = workshop.folder / "bundle.crt"
    bundle.write_text("one")
    await workshop.builder().ensure_base()
    await workshop.builder(ca_bundle=bundle).ensure_base()
    await workshop.builder(ca_bundle=bundle).ensure_base()
    assert workshop.built() == ["base", "base"]


async def test_a_missing_ca_bundle_names_its_setting(workshop):
    with pytest.raises(BuildError, match="ORCHESTRATOR_CA_BUNDLE"):
        await workshop.builder(ca_bundle=workshop.folder / "none").ensure_base()


async def test_the_base_is_given_its_context_and_arguments(workshop):
    seen = {}

    async def build(context, **request):
        seen.update({path.relative_to(context).as_posix(): path.read_text() for path in context.rglob("*.*")})
        seen["arguments"] = request["build_args"]
        return await original(context, **request)

    original, workshop.engine.build = workshop.engine.build, build
    await workshop.builder(build_settings={"HTTPS_PROXY": "http://proxy:1"}).ensure_base()
    assert seen == {
        "ca-bundle.crt": "",
        "runtime/src/runtime.py": "x = 1\n",
        "arguments": {"PYTHON_IMAGE": "python:test", "HTTPS_PROXY": "http://proxy:1"},
    }


async def test_concurrent_callers_share_one_build(workshop):
    builder = workshop.builder()
    recipes = [workshop.recipe(name) for name in ("a1", "b2", "c3")] * 5
    images = await asyncio.gather(*(builder.ensure_plugin(recipe) for recipe in recipes))
    assert sorted(workshop.built()) == ["base", "plugin-a1", "plugin-b2", "plugin-c3"]
    assert len({image.id for image in images}) == 3


async def test_at_most_two_plugins_are_built_at_once(workshop):
    now, peak = 0, 0
    original = workshop.engine.build

    async def build(*arguments, **more):
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0.2)
        now -= 1
        return await original(*arguments, **more)

    workshop.engine.build = build
    builder = workshop.builder()
    await asyncio.gather(*(builder.ensure_plugin(workshop.recipe(f"plugin-{i}")) for i in range(6)))
    assert peak == 2


async def test_a_build_that_is_broken_off_while_its_files_are_collected_ends_at_once(workshop, monkeypatch):
    """As broken off, not as an error of the disk; once the thread has ended nothing is left of the files."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    contexts = []

    def slowly(_, folder):
        contexts.append(folder)
        (folder / "a").mkdir()
        begun.set()
        go_on.wait(10)
        (folder / "a" / "late").write_text("x")
        ended.set()

    builder = workshop.builder()
    monkeypatch.setattr(ImagePlan, "write_context", slowly)
    building = asyncio.create_task(builder.ensure_plugin(workshop.recipe()))
    await asyncio.to_thread(begun.wait, 10)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(building, 5)
    assert not ended.is_set()
    go_on.set()
    async with asyncio.timeout(10):
        while any(folder.exists() for folder in contexts):
            await asyncio.sleep(0.01)
    assert ended.is_set() and contexts


async def test_files_that_change_while_a_build_waits_are_built_as_they_are_then(workshop):
    builder = workshop.builder()
    await builder.ensure_base()
    go = asyncio.Event()
    building = []
    original = workshop.engine.build

    async def build(context, **more):
        building.append(more["tag"])
        await go.wait()
        return await original(context, **more)

    workshop.engine.build = build
    builds = [asyncio.create_task(builder.ensure_plugin(workshop.recipe(name))) for name in ("a1", "b2")]
    while len(building) < 2:  # both slots are taken
        await asyncio.sleep(0.01)
    waits = asyncio.Event()
    builds.append(asyncio.create_task(builder.ensure_plugin(workshop.recipe(), lambda line: waits.set())))
    await waits.wait()
    (workshop.plugin() / "package" / "__init__.py").write_text("changed")
    go.set()
    *_, image = await asyncio.gather(*builds)
    assert (await builder.ensure_plugin(workshop.recipe())).id == image.id


async def test_a_prebuilt_image_is_used_as_it_is(workshop):
    here = workshop.engine.add_image("registry.example/x:1", until_terminated)
    assert (await workshop.builder().ensure_plugin(workshop.recipe(base="registry.example/x:1"))).id == here.id
    workshop.engine.image_store.registry["registry.example/y:1"] = until_terminated
    image = await workshop.builder().ensure_plugin(workshop.recipe(base="registry.example/y:1"))
    assert image.tags == ("registry.example/y:1",)
    assert workshop.built() == []


async def test_a_prebuilt_image_that_cannot_be_pulled_says_what_to_do(workshop):
    with pytest.raises(NotFoundError, match=r"registry\.example/z:1 is not on this host.*docker login"):
        await workshop.builder().ensure_plugin(workshop.recipe(base="registry.example/z:1"))


async def test_a_base_without_a_dockerfile_is_named(workshop):
    with pytest.raises(BuildError, match="cuda"):
        await workshop.builder().ensure_plugin(workshop.recipe(base="cuda"))


async def test_a_failed_build_says_what_failed_and_what_to_do_and_stores_its_output(workshop):
    builder = workshop.builder()
    await builder.ensure_base()
    workshop.engine.image_store.build_output = ["Step 3", "ERROR: No matching distribution found for no-such-thing"]
    workshop.engine.image_store.build_error = "The command '/bin/sh -c pip install' returned a non-zero code: 1"
    output = []
    with pytest.raises(BuildError) as failure:
        await builder.ensure_plugin(workshop.recipe(), output.append)
    assert str(failure.value) == (
        "The image reader could not be built: No matching distribution found for no-such-thing. "
        "Correct requirements.txt: the package index has no version that fits it and this Python."
    )
    assert "no-such-thing" in failure.value.tail
    assert output[:2] == ["collecting the files of reader", "Step 3"]
    assert "no-such-thing" in (workshop.folder / "logs" / "reader.log").read_text()


async def test_code_that_does_not_compile_is_a_failed_build(workshop):
    builder = workshop.builder()
    await builder.ensure_base()
    fault = "the plugin's code does not compile: reader/plugin.py, line 3: invalid syntax: `def f(:`"
    workshop.engine.image_store.build_output = ["Step 4", f"ERROR: {fault}"]
    workshop.engine.image_store.build_error = "The command '/bin/sh -c (python …)' returned a non-zero code: 1"
    with pytest.raises(BuildError) as failure:
        await builder.ensure_plugin(workshop.recipe(module="reader.plugin"))
    advice = "Correct it; nothing else has to be built again."
    assert str(failure.value) == f"The image reader could not be built: {fault}. {advice}"


async def test_credentials_are_in_nothing_that_a_failed_build_says(workshop):
    builder = workshop.builder(build_settings={"PIP_INDEX_URL": "https://reader:hunter22@index.example/simple"})
    await builder.ensure_base()
    workshop.engine.image_store.build_output = ["Looking in https://reader:hunter22@index.example/simple"]
    workshop.engine.image_store.build_error = "refused hunter22"
    output = []
    with pytest.raises(BuildError) as failure:
        await builder.ensure_plugin(workshop.recipe(), output.append)
    assert failure.value.__cause__ is None
    log = (workshop.folder / "logs" / "reader.log").read_text()
    assert "hunter22" not in "\n".join((str(failure.value), failure.value.tail, log, *output))
    assert "index.example" in log


async def test_a_new_index_builds_nothing(workshop):
    await workshop.builder().ensure_plugin(workshop.recipe())
    builder = workshop.builder(build_settings={"PIP_INDEX_URL": "https://reader:hunter22@index.example/simple"})
    await builder.ensure_plugin(workshop.recipe())
    assert workshop.built() == ["base", "plugin-reader"]


async def test_a_failed_build_is_tried_again_at_the_next_call(workshop):
    builder = workshop.builder()
    workshop.engine.image_store.build_error = "the network"
    with pytest.raises(BuildError):
        await builder.ensure_plugin(workshop.recipe())
    workshop.engine.image_store.build_error = ""
    await builder.ensure_plugin(workshop.recipe())


async def test_an_error_names_no_path_of_this_host(workshop):
    (workshop.plugin() / "link").symlink_to("/etc/passwd")
    with pytest.raises(BuildError) as failure:
        await workshop.builder().ensure_plugin(workshop.recipe())
    assert str(workshop.folder) not in str(failure.value)
    assert "reader" in str(failure.value)


async def test_an_unreachable_engine_is_no_failed_build(workshop):
    workshop.engine.set_reachable(False)
    with pytest.raises(EngineUnreachableError):
        await workshop.builder().ensure_plugin(workshop.recipe())


async def test_the_newest_image_of_a_plugin_and_the_previous_one_are_retained(workshop):
    builder = workshop.builder()
    images = []
    for content in ("one", "two", "three"):
        (workshop.plugin() / "package" / "__init__.py").write_text(content)
        images.append(await builder.ensure_plugin(workshop.recipe()))
    left = await workshop.engine.images({"plugin-orchestrator.plugin": "reader"})
    assert {image.id for image in left} == {image.id for image in images[1:]}
    assert len(await workshop.engine.images({"plugin-orchestrator.shared-image": "base"})) == 1


async def test_an_image_that_may_be_begun_again_is_retained_however_old(workshop):
    """What a plugin was made from before its last update, and can go back to."""
    in_use: dict[str, set[str]] = {}
    builder = workshop.builder(in_use=lambda name: in_use.get(name, ()))
    first = await builder.ensure_plugin(workshop.recipe())
    in_use["reader"] = {first.id}
    for number in range(4):
        (workshop.plugin() / "package" / "__init__.py").write_text(f"number = {number}")
        await builder.ensure_plugin(workshop.recipe())
    kept = await workshop.engine.images({"plugin-orchestrator.plugin": "reader"})
    assert len(kept) == 3
    assert first.id in {image.id for image in kept}


async def test_an_image_that_a_container_uses_is_retained(workshop):
    builder = workshop.builder()
    images = []
    for content in ("one", "two", "three", "four"):
        (workshop.plugin() / "package" / "__init__.py").write_text(content)
        images.append(await builder.ensure_plugin(workshop.recipe()))
        if content == "one":
            await workshop.engine.create(
                ContainerSpec(name="n", image=images[0].id, labels={}, environment={}, memory=1, pids=1)
            )
    left = await workshop.engine.images({"plugin-orchestrator.plugin": "reader"})
    assert {image.id for image in left} == {images[0].id, images[2].id, images[3].id}


async def test_who_waits_for_a_build_hears_it(workshop):
    """As the one that began it does: both say what goes on."""
    builder, heard = workshop.builder(), {"first": [], "second": []}
    engine_build = workshop.engine.build

    async def build(context, **request):
        while "plugin-reader" in request["tag"] and len(builder._listeners["plugin reader"]) < len(heard):
            await asyncio.sleep(0.01)
        return await engine_build(context, **request)

    workshop.engine.build = build
    await asyncio.gather(*(builder.ensure_plugin(workshop.recipe(), lines.append) for lines in heard.values()))
    assert [lines.count("Step 1/1") for lines in heard.values()] == [2, 2]
    assert workshop.built() == ["base", "plugin-reader"]


async def test_what_is_there_already_is_heard_by_nobody(workshop):
    heard = []
    await workshop.builder().ensure_plugin(workshop.recipe())
    await workshop.builder().ensure_plugin(workshop.recipe(), heard.append)
    assert heard == []


async def test_the_output_of_the_last_build_can_be_read(workshop):
    """The plugin's own; while a build is under way, that of the image under it too."""
    builder = workshop.builder()
    assert builder.build_output("reader", lines=5, running=False) == ""
    workshop.engine.image_store.build_output = ["one", "two", "three"]
    await builder.ensure_base()
    assert builder.build_output("reader", lines=2, running=True) == "two\nthree\n"
    assert builder.build_output("reader", lines=2, running=False) == ""
    workshop.engine.image_store.build_output = ["four"]
    await builder.ensure_plugin(workshop.recipe())
    assert builder.build_output("reader", lines=2, running=False) == "four\n"
