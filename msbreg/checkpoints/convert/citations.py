"""Method of pre-training -> the BibTeX entry that its model cards cite."""

CITATIONS = {
    "msbreg": """\
@article{moon2022embedding,
  title   = {An Embedding-Dynamic Approach to Self-supervised Learning},
  author  = {Moon, Suhong and Buracas, Domas and Park, Seunghyun and Kim, Jinkyu and Canny, John},
  journal = {arXiv preprint arXiv:2207.03552},
  year    = {2022}
}""",
    "byol": """\
@inproceedings{grill2020bootstrap,
  title     = {Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning},
  author    = {Grill, Jean-Bastien and Strub, Florian and Altch{\\'e}, Florent and others},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    "simclr": """\
@inproceedings{chen2020simple,
  title     = {A Simple Framework for Contrastive Learning of Visual Representations},
  author    = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning},
  year      = {2020}
}""",
    "moco_v2": """\
@article{chen2020improved,
  title   = {Improved Baselines with Momentum Contrastive Learning},
  author  = {Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  journal = {arXiv preprint arXiv:2003.04297},
  year    = {2020}
}""",
    "moco_v3": """\
@inproceedings{chen2021empirical,
  title     = {An Empirical Study of Training Self-Supervised Vision Transformers},
  author    = {Chen, Xinlei and Xie, Saining and He, Kaiming},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021}
}""",
    "swav": """\
@inproceedings{caron2020unsupervised,
  title     = {Unsupervised Learning of Visual Features by Contrasting Cluster Assignments},
  author    = {Caron, Mathilde and Misra, Ishan and Mairal, Julien and Goyal, Priya and others},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    "simsiam": """\
@inproceedings{chen2021exploring,
  title     = {Exploring Simple Siamese Representation Learning},
  author    = {Chen, Xinlei and He, Kaiming},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2021}
}""",
    "barlow_twins": """\
@inproceedings{zbontar2021barlow,
  title     = {Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author    = {Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    "vicreg": """\
@inproceedings{bardes2022vicreg,
  title     = {VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author    = {Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    "wmse": """\
@inproceedings{ermolov2021whitening,
  title     = {Whitening for Self-Supervised Representation Learning},
  author    = {Ermolov, Aleksandr and Siarohin, Aliaksandr and Sangineto, Enver and Sebe, Nicu},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    "dbn": """\
@inproceedings{hua2021feature,
  title     = {On Feature Decorrelation in Self-Supervised Learning},
  author    = {Hua, Tianyu and Wang, Wenxiao and Xue, Zihui and Ren, Sucheng and Wang, Yue and Zhao, Hang},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021}
}""",
    "dino": """\
@inproceedings{caron2021emerging,
  title     = {Emerging Properties in Self-Supervised Vision Transformers},
  author    = {Caron, Mathilde and Touvron, Hugo and Misra, Ishan and others},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021}
}""",
}
CITATIONS["deepcluster_v2"] = CITATIONS["swav"]
