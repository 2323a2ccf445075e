# fewstep in a container: docker build -t fewstep . && docker run --rm --gpus all -v "$PWD/runs:/fewstep/runs" fewstep \
#     fit --config configs/bcm.yaml
# PyTorch's wheels bring CUDA; a host needs NVIDIA's driver and container toolkit, or nothing for a CPU.
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 fewstep && mkdir -p /fewstep/runs && chown -R fewstep /fewstep
WORKDIR /fewstep

# what changes seldom first: the packages, then the project
COPY pyproject.toml README.md ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /tmp/requirements.txt && pip install --no-cache-dir -r /tmp/requirements.txt && rm /tmp/requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps -e .

USER 1000
ENV OMP_NUM_THREADS=1
# exec form: signals reach Python, which saves a checkpoint on SIGTERM (docker stop waits 10 s; --stop-timeout 60 more)
ENTRYPOINT ["python", "main.py"]
CMD ["--help"]
