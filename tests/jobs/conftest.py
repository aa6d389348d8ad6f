from tests.worker.services import bench, database, service_urls

__all__ = ["bench", "database", "service_urls"]
