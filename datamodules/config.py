"""The data sets by name. Torch-free, so that a plan can identify data without loading it."""

from __future__ import annotations

from datamodules.emoji.config import EmojiConfig
from datamodules.online_config import FolderOnlineConfig, ImageNetOnlineConfig
from datamodules.store_config import CC3MConfig, CocoConfig, FolderConfig, ImageNetConfig
from lightning_modules.registry import Entry, Registry

DATASETS = Registry(
    "data set",
    {
        "emoji": Entry(EmojiConfig, "datamodules.emoji.datamodule:EmojiDataModule"),
        "imagenet": Entry(ImageNetConfig, "datamodules.stores:StoreDataModule"),
        "cc3m": Entry(CC3MConfig, "datamodules.stores:StoreDataModule"),
        "coco": Entry(CocoConfig, "datamodules.stores:StoreDataModule"),
        "folder": Entry(FolderConfig, "datamodules.stores:StoreDataModule"),
        "imagenet_online": Entry(ImageNetOnlineConfig, "datamodules.online:OnlineDataModule"),
        "folder_online": Entry(FolderOnlineConfig, "datamodules.online:OnlineDataModule"),
    },
)
