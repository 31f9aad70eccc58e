"""MSBReg (Moon et al., arXiv 2207.03552): centroid, singular value and Brownian losses."""

from torch import Tensor

from msbreg.train.loop import Loss
from pretrain.losses import msbreg_loss, other_views
from pretrain.methods.method import Gather, WithTarget, step_noise


class MSBReg(WithTarget):
    """Eq. 2 of the paper, with predictions of the online network and projections of the target network."""

    def loss(
        self,
        embeddings: Tensor,  # (1, B, D) predictions of one view, this process's images
        targets: Tensor | None,  # (K, N, D)
        *,
        view: int,
        step: int,
        gather: Gather,
    ) -> Loss:
        assert targets is not None
        config, options = self.config, self.config.loss
        predictions = gather(embeddings[0])[None]  # (1, N, D)
        loss = msbreg_loss(
            predictions,
            targets if options.include_self else other_views(targets, view),
            step_noise(config.seed, step, *predictions.shape[1:], share=options.noise_share).to(
                predictions.device
            ),
            lambda_s=config.lambda_s,
            lambda_b=config.lambda_b,
            singular_input=options.singular_input,
            singular_of=predictions if options.singular_sync else embeddings,
            normalize_noise=options.normalize_noise,
        )
        return Loss(loss.total, loss._asdict())
