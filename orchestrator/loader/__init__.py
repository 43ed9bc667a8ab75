"""From a plugin's folder to everything that a start needs: manifest, host-side checks, image.

`plugin_loader` discovers the folders, `manifest` reads their plugin.yaml, `dependency_checker` checks their models
(`model_locations` says where they are) and secrets (`plugin_secrets`) on the host. A build goes through these modules:

1. `image_recipe`: what a manifest demands of its image, and the Dockerfile for it (pure)
2. `build_context`: the files that go into an image, and their hash; `requirements_file`: those that pip needs;
   `build_settings`: proxies and package indexes, whose credentials stay out of images and logs
3. `image_plan`: one image completely, with labels, context and a tag that follows from its content; one function per
   kind of image: base, cuda, a plugin's, the orchestrator's own
4. `image_builder`: has the engine build what no image is tagged for, and removes old images
5. `build_report`: the build's log file, and advice on a failed build

Must not know: containers that run, states, HTTP.
"""
