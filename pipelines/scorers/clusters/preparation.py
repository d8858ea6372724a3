"""The step before clusters are assigned, which trains centroids, and the figures after it."""

import apache_beam as beam

from curation.coverage import cluster_diagnostics
from pipelines.files import fingerprints, storage
from pipelines.scorers.clusters import clustering
from pipelines.scoring.preparation import Preparation, Summary
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress


class CentroidsPreparation(Preparation):
  """Trains centroids on a sample of all embeddings (`clustering`)."""

  label = "Train"
  makes = (f"{clustering.FOLDER}/",)
  work = (f"{clustering.FOLDER}/work",)
  config_type = clustering.ClusteringConfig
  transform_type = clustering.Train

  def stages(self, count: progress.Count | None) -> list[progress.Stage]:
    return clustering.stages(self.config, count)

  def conclusion(self) -> beam.PTransform:
    return clustering.Diagnose(self.config)

  @property
  def is_concluded(self) -> bool:
    return storage.exists(self.config.path(clustering.DIAGNOSTICS_FILE))

  def summary(self) -> Summary:
    """Returns figures of the clusters, and warnings if another number of clusters would be better."""
    figures = fingerprints.read_json(self.config.path(clustering.DIAGNOSTICS_FILE))
    training = figures["training"]
    lines = []
    for title, inertias in (("the training sample", training["inertia"]), ("all", training.get("lloyd_inertia"))):
      if inertias:
        lines.append(f"inertia of {title} after each iteration: {' '.join(f'{inertia:.4g}' for inertia in inertias)}")
    parted = "" if training["silhouette"] is None else f", silhouette {training['silhouette']:.3g}"
    lines += [
      f"{figures['clusters']:,} clusters of {figures['documents']:,} documents, "
      f"inertia {figures['inertia']:.4g}{parted}",
      f"documents in a cluster: {figures['smallest']:,} in the smallest, {figures['median']:,.0f} in the median one, "
      f"{figures['largest']:,} in the largest; {figures['empty']:,} clusters are empty, "
      f"{figures['giant']:,} are giants",
      f"pairs of documents that share a cluster: {figures['pairs']:,}",
    ]
    return Summary(lines, cluster_diagnostics.warnings(figures))

  @classmethod
  def state(cls, store: ScoreStore) -> list[str]:
    is_trained = clustering.CENTROIDS_FILE in storage.list_names(store.path(clustering.FOLDER))
    return [f"centroids: {'trained' if is_trained else 'not trained yet'}"]
