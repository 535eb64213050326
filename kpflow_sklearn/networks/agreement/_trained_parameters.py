"""Check which parameters train, and that their gradients are the derivatives in K."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.modules import named_once, named_parts, parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import describe
from kpflow_sklearn.networks._functions import is_kept_apart
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks.agreement._parameter_use import ParameterUse, Rehearsal, first_few
from kpflow_sklearn.networks.agreement._shared_parameters import refuse_only_shared


def refuse_untrained(
    module: nn.Module,
    view: RecurrentNetwork,
    X: Tensor,
    initial_state: Any,
    parameters: Collection[str] | None,
) -> None:
    """Refuse a choice of parameters of which none belongs to the recurrent part alone.

    A network in which no parameter of the recurrent part trains is accepted if none was asked for.

    Parameters
    ----------
    module : Module
        The user's network, in which only the chosen parameters train.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        A few trials.
    initial_state : Any
        z_0 as the user gives it.
    parameters : collection of str or None
        The user's choice of parameters, for the error.

    Raises
    ------
    UnsupportedNetworkError
        If no parameter of the recurrent part trains, although the user asked for some, or only
        some that it shares with the encoder or the readout.
    """
    if view.trains:
        return
    trained = [name for name, p in named_once(module).items() if p.requires_grad]
    if trained:  # A function or method does not count what the encoder or the readout use.
        use = Rehearsal(module, view, initial_state).rebuilt(X, n_steps=2)
        refuse_only_shared(module, use)
    if parameters is not None:
        raise UnsupportedNetworkError(
            f"parameters={parameters!r} names no parameter of the recurrent part, but only "
            f"{first_few(trained)}, so that K is zero. Name some of the step, or leave parameters "
            "out."
        )


def refuse_zero_kernel(network: RecurrentNetwork) -> None:
    """Refuse to analyse K and PKP* of a network in which both are zero.

    Parameters
    ----------
    network : RecurrentNetwork
        The network.

    Raises
    ------
    UnsupportedNetworkError
        If neither a parameter of the recurrent part nor z_0 trains.
    """
    if not network.trains:
        raise UnsupportedNetworkError(
            "no parameter of the recurrent part trains (requires_grad is False for all, or its "
            "weights are buffers), so that K and PKP* are zero. P does not depend on what trains: "
            'KPFlowAnalyzer(operators=("P",)) analyses it, with the Lyapunov exponents. For K and '
            "PKP*, let the weights of the step train: call requires_grad_(True) on them, or make "
            "a buffer W a parameter, torch.nn.Parameter(W)."
        )


def refuse_embeddings(module: nn.Module, use: ParameterUse) -> None:
    """Refuse embeddings in theta whose gradient is not the derivative.

    Parameters
    ----------
    module : Module
        The user's network.
    use : ParameterUse
        What its parts depend on.

    Raises
    ------
    UnsupportedNetworkError
        If an embedding in theta has ``padding_idx`` or another option that changes its gradient.
    """
    for name, part in named_parts(module):
        if not isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            continue
        if f"{name}.weight".removeprefix(".") not in use.theta:
            continue
        options = {
            "padding_idx": part.padding_idx,
            "max_norm": part.max_norm,
            "scale_grad_by_freq": part.scale_grad_by_freq,
            "sparse": part.sparse,
        }
        given = [f"{k}={v}" for k, v in options.items() if v is not None and v is not False]
        if given:
            raise UnsupportedNetworkError(
                f"the step contains the {type(part).__name__} {name!r} with {', '.join(given)}, "
                "whose gradient is not the derivative that K is made of, or cannot be computed. "
                "Analyse a network with the same weights in an Embedding without these options "
                "(a padding token on masked steps changes nothing), or hold it fixed with "
                "requires_grad_(False)."
            )


def warn_of_gradient_hooks(original: nn.Module, names: Collection[str]) -> None:
    """Warn of hooks on the gradients of parameters in theta, which the analysis does not call.

    Parameters
    ----------
    original : Module
        The user's network, not a copy, which has no hooks.
    names : collection of str
        The names of the parameters in theta.
    """
    hooked = [
        name
        for name, p in named_once(original).items()
        if name in names and (p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))
    ]
    if hooked:
        warn_caller(
            f"gradient hooks on {', '.join(hooked)} of {type(original).__name__} are not part of "
            "the analysis: K and the flow are those of gradients that no hook changes. If a hook "
            "changes the gradient, for example by a mask, compute the weight from a raw one with "
            "torch.nn.utils.parametrize instead; if not, remove it before the analysis.",
            UserWarning,
        )


def refuse_left_out(
    left_out: list[str], use: ParameterUse, further: str, is_compared: bool
) -> None:
    """Refuse parameters that states or outputs depend on, but that belong to no part.

    Parameters
    ----------
    left_out : list of str
        The parameters that belong to no part.
    use : ParameterUse
        What the parts depend on.
    further : str
        A sentence that names these parameters.
    is_compared : bool
        Whether states or outputs were compared; then only parameters that train are refused.

    Raises
    ------
    UnsupportedNetworkError
        If there are any.
    """
    remedy = (
        "Name by SavedTraining(...) an encoder (encoder=...) that contains them if they act on X "
        "before the step, or a step (step=...) and a readout (readout=...) that contain them; a "
        "weight that forward computes from them must be computed inside the step"
    )
    if is_compared:  # Otherwise all must belong.
        left_out = [name for name in left_out if name in use.trained]
        remedy += "; or, to treat them as fixed, set their requires_grad to False"
    if left_out:
        raise UnsupportedNetworkError(f"{further} {remedy}.")


def warn_of_unused(original: nn.Module, names: Sequence[str], changed: Collection[str]) -> None:
    """Warn of parameters in theta on which nothing depends, so that K lacks them.

    Parameters
    ----------
    original : Module
        The user's network, not a copy.
    names : sequence of str
        The names of the parameters.
    changed : collection of str
        The parameters whose values differ between a checkpoint and the network as it was given.

    Raises
    ------
    UnsupportedNetworkError
        If some of them changed, and the network keeps tensors that may be computed from them.
    """
    if not names:
        return
    what = (
        f"{first_few(list(names))} of {type(original).__name__} train and belong to theta, but "
        "nothing that the module returns depends on them in evaluation mode"
    )
    kept = _kept_tensors(original)
    if kept and any(name in changed for name in names):
        raise UnsupportedNetworkError(
            f"{what}, although their values differ between the checkpoints and the network. It "
            f"keeps {first_few(kept)}, probably computed from other values of these parameters: "
            "give a network that has not been run in evaluation mode, whose forward computes "
            "these tensors anew at every call."
        )
    warn_caller(
        f"{what}, so that K lacks them. Evaluation mode may have merged them into other "
        "weights (as LoRA does), or the network may keep weights that it computed from them: give "
        "the network in training mode (network.train(); evaluation mode is analysed in any case), "
        "and compute weights anew at every call, for example with torch.nn.utils.parametrize. If "
        "these parameters are not used, call requires_grad_(False) on them.",
        UserWarning,
    )


def _kept_tensors(module: nn.Module) -> list[str]:
    """Return the names of the tensors that are attributes, but not parameters or buffers."""
    return [
        f"{name}.{key}".removeprefix(".")
        for name, part in named_parts(module)
        for key, value in vars(part).items()
        if isinstance(value, Tensor)
    ]


def warn_of_trained_encoder(module: nn.Module, view: RecurrentNetwork, use: ParameterUse) -> None:
    """Warn of parameters of the encoder that train, and so move the states too.

    Parameters
    ----------
    module : Module
        The user's network.
    view : RecurrentNetwork
        The same network as encoder, step, readout and initial state.
    use : ParameterUse
        What these parts depend on.
    """
    trained = [name for name in use.sizes if name in use.encoder & use.trained]
    if view.encoder is not None and is_kept_apart(module, view.encoder):
        trained = [n for n, p in parameters_of(view.encoder).items() if p.requires_grad]
    if trained:
        warn_caller(
            f"{first_few(trained)} of {describe(view.encoder)} train, but are not in theta: K, "
            "PKP and the flow PKP* Err are those of the recurrent part, with the encoder held "
            "fixed. In training, the states moved by the change of the encoder too, which "
            "flow_agreement does not count as explained. To treat these parameters as fixed, "
            "without this warning, set their requires_grad to False.",
            UserWarning,
        )
