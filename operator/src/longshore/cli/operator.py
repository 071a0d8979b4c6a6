"""`longshore operator run`: the operator itself, in a pod or, for development, anywhere with a kubeconfig."""

import gc
import logging
from typing import Annotated

import typer

from longshore.cli.check import check

app = typer.Typer(help="The operator itself.", no_args_is_help=True)


app.command()(check)


@app.command()
def run(
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            help="Namespace to work in; repeat for several; none: all.", envvar="LONGSHORE_NAMESPACES"
        ),
    ] = None,
    server_image: Annotated[
        str, typer.Option(envvar="LONGSHORE_SERVER_IMAGE")
    ] = "localhost/longshore/server:dev",
    optimizer_image: Annotated[
        str, typer.Option(envvar="LONGSHORE_OPTIMIZER_IMAGE")
    ] = "localhost/longshore/optimizer:dev",
    triton_image: Annotated[
        str, typer.Option(envvar="LONGSHORE_TRITON_IMAGE")
    ] = "localhost/longshore/triton:dev",
    tensorrt_image: Annotated[
        str | None,
        typer.Option(
            help="Optimizer with TensorRT, which builds engines on the GPU's node; absent: pods build them.",
            envvar="LONGSHORE_TENSORRT_IMAGE",
        ),
    ] = None,
    store: Annotated[
        str, typer.Option(help="Where artifacts go: oci://host/repository.", envvar="LONGSHORE_STORE")
    ] = "oci://localhost:5000/longshore",
    store_plain_http: Annotated[bool, typer.Option(envvar="LONGSHORE_STORE_PLAIN_HTTP")] = False,
    activator_token: Annotated[
        str | None,
        typer.Option(
            help="File with the activators' bearer token; absent: no model goes to zero by itself.",
            envvar="LONGSHORE_ACTIVATOR_TOKEN",
        ),
    ] = None,
    activator_namespace: Annotated[
        str, typer.Option(help="Namespace of the activators.", envvar="LONGSHORE_ACTIVATOR_NAMESPACE")
    ] = "longshore-system",
    prometheus: Annotated[
        str | None, typer.Option(help="Prometheus that scrapes the pods.", envvar="LONGSHORE_PROMETHEUS")
    ] = None,
    pack_small_models: Annotated[
        bool,
        typer.Option(
            help="Ask the scheduler to put pods of small models onto few nodes.",
            envvar="LONGSHORE_PACK_SMALL_MODELS",
        ),
    ] = False,
    store_secret: Annotated[
        str | None,
        typer.Option(
            help="Secret with the store's credentials, in every namespace.", envvar="LONGSHORE_STORE_SECRET"
        ),
    ] = None,
    node_registry: Annotated[
        list[str] | None,
        typer.Option(
            help="Registry that nodes pull from, HOST or HOST=NODE_HOST; repeat for several.",
            envvar="LONGSHORE_NODE_REGISTRIES",
        ),
    ] = None,
    plain_http_registry: Annotated[
        list[str] | None,
        typer.Option(
            help="Registry that pods reach without TLS; repeat for several.",
            envvar="LONGSHORE_PLAIN_HTTP_REGISTRIES",
        ),
    ] = None,
    image_pull_secret: Annotated[
        list[str] | None, typer.Option(envvar="LONGSHORE_IMAGE_PULL_SECRETS")
    ] = None,
    host: Annotated[str, typer.Option(help="Address of probes and metrics.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port of /healthz and /metrics; 0: any.")] = 9443,
    lease_namespace: Annotated[str, typer.Option(envvar="POD_NAMESPACE")] = "default",
    lease_name: Annotated[str, typer.Option()] = "longshore-operator",
    elect: Annotated[bool, typer.Option(help="Work only while holding the lease.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=256)] = 16,
    json_logs: Annotated[bool, typer.Option(help="Log JSON lines.", envvar="LONGSHORE_JSON_LOGS")] = False,
    verbose: Annotated[bool, typer.Option(help="Log more.")] = False,
) -> None:
    """Run the operator until SIGTERM or Ctrl-C."""
    # Cycles are looked for after 10,000 new objects in place of 700, a few MiB at most: nothing of what is
    # imported now is ever given back, and what is heard later lives long.
    gc.set_threshold(10_000, 20, 20)
    try:
        import uvloop

        from longshore.app import Process
        from longshore.app import run as run_operator
        from longshore.cluster import ClusterError
    except ImportError as error:
        typer.echo(f"{error}: install the operator's part with `pip install 'longshore[operator]'`", err=True)
        raise typer.Exit(2) from None
    from longshore import log
    from longshore.settings import NodeRegistry, Settings

    log.configure(json_logs, logging.DEBUG if verbose else logging.INFO)
    settings = Settings(
        namespaces=tuple(namespace or ()),
        server_image=server_image,
        optimizer_image=optimizer_image,
        triton_image=triton_image,
        tensorrt_image=tensorrt_image or None,
        store=store,
        store_plain_http=store_plain_http,
        activator_token=activator_token,
        activator_namespace=activator_namespace,
        prometheus=prometheus,
        pack_small_models=pack_small_models,
        store_secret=store_secret,
        node_registries=tuple(NodeRegistry.parse(text) for text in node_registry or ()),
        plain_http_registries=tuple(plain_http_registry or ()),
        image_pull_secrets=tuple(image_pull_secret or ()),
    )
    process = Process(
        host=host,
        port=port,
        lease_namespace=lease_namespace,
        lease_name=lease_name,
        elect=elect,
        workers=workers,
    )

    def started(bound: int) -> None:
        logging.getLogger("longshore").info("probes and metrics on port %d", bound)

    try:
        uvloop.run(run_operator(settings, process, started))
    except ClusterError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
