# The service: API, workers, migrations and keys are commands of one image.
FROM python:3.11-slim

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

WORKDIR /app

# PyPI has torch with CUDA; https://download.pytorch.org/whl/cpu has it without, smaller by several gigabytes.
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt pyproject.toml ./
# --no-deps: only these two come from that index; what they need comes from PyPI below, in the tested versions.
# torchvision of another kind than torch can't be imported.
RUN pip install --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch torchvision

# Before the code, so that a change of code does not install gigabytes again.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
wanted = ('core', 'service', 'mlflow', 'tensorboard', 'openvino', 'otel'); \
print(*project['dependencies'], *(package for extra in wanted for package in extras[extra]), sep='\n')" \
    > /tmp/requirements.txt \
    && pip install -c constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . .
RUN pip install -c constraints.txt -e '.[core,service,mlflow,tensorboard,openvino,otel]'

# A new named volume takes its owner from the folder that it covers.
RUN groupadd --gid 10001 lit \
    && useradd --uid 10001 --gid lit --no-create-home --home-dir /work --shell /usr/sbin/nologin lit \
    && install --directory --mode 700 --owner lit --group lit /storage /work
# By number, so that Kubernetes can see that it isn't root.
USER 10001:10001

EXPOSE 8000
ENTRYPOINT ["litc"]
