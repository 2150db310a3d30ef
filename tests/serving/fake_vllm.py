"""A server in the process that answers in the form of vLLM 0.32: what it takes, and what it says to `curl`."""

import threading

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hf_causal_clf.serving.server import address_of, open_socket


class FakeVllm:
    """Models by name, each a function of token ids; as many as vLLM has with LoRA.

    Attributes:
        broken: What to say in the place of the next answers: functions of nothing that return a response.
        asked: The bodies of all requests.
    """

    def __init__(self, models, *, owner="vllm", max_model_len=512, key=None):
        self.models, self.owner, self.max_model_len, self.key = models, owner, max_model_len, key
        self.broken, self.asked = [], []
        paths = {"/classify": self.classify, "/v1/completions": self.completions}
        routes = [Route(path, self.answering(answer), methods=["POST"]) for path, answer in paths.items()]
        self.app = Starlette(routes=[*routes, Route("/v1/models", self.list_models)])

    def __enter__(self):
        bound = open_socket("127.0.0.1", 0)
        bound.listen()
        self.url = address_of(bound)
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [bound]})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()

    def die(self):
        self.server.force_exit = True
        self.server.should_exit = True

    async def list_models(self, request):
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        first = next(iter(self.models))
        listed = [
            {
                "id": name,
                "object": "model",
                "owned_by": self.owner,
                "parent": None if name == first else first,
                "max_model_len": self.max_model_len if name == first else None,
            }
            for name in self.models
        ]
        return JSONResponse({"object": "list", "data": listed})

    def answering(self, answer):
        async def respond(request):
            body = await request.json()
            self.asked.append(body)
            if self.broken:
                return self.broken.pop(0)()
            return JSONResponse(answer(self.models[body["model"]], body))

        return respond

    def classify(self, model, body):
        data = []
        for index, ids in enumerate(body["input"]):
            logits = model(ids)
            probs = logits if body.get("use_activation") is False else logits.softmax(-1)
            label = f"LABEL_{int(probs.argmax())}"
            data.append({"index": index, "label": label, "probs": probs.tolist(), "num_classes": len(probs)})
        return {"id": "classify-1", "object": "list", "data": data[::-1], "usage": {}}  # whatever the order

    def completions(self, model, body):
        choices = []
        for index, ids in enumerate(body["prompt"]):
            assert body["max_tokens"] == 1
            after = model(ids).log_softmax(-1)  # (tokens, vocabulary)
            best = int(after[-1].argmax())
            said = {"token_logprobs": [float(after[-1, best])], "tokens": [f"token_id:{best}"]}
            if body.get("echo"):
                of_prompt = [float(after[place, token]) for place, token in enumerate(ids[1:])]
                said["token_logprobs"] = [None, *of_prompt, *said["token_logprobs"]]
                said["tokens"] = None
            elif body.get("logprob_token_ids"):
                assert len(body["logprob_token_ids"]) <= 128
                assert body["logprobs"] is not None
                assert body["return_tokens_as_token_ids"]
                tokens = [best, *body["logprob_token_ids"]]
                said["top_logprobs"] = [{f"token_id:{token}": float(after[-1, token]) for token in tokens}]
            choices.append({"index": index, "text": "", "logprobs": said, "finish_reason": "length"})
        return {"id": "cmpl-1", "object": "text_completion", "choices": choices}


def refusal(status=400, message="This model's maximum context length is 512 tokens."):
    """What vLLM says to a request that it does not take."""
    error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": status}
    return lambda: JSONResponse({"error": error}, status)


def status(code):
    return lambda: Response(status_code=code)


def logits_of(model):
    """What vLLM computes from token ids: the logits of a head at the last token, or those of the next token at each."""

    @torch.no_grad()
    def logits(ids):
        return model(input_ids=torch.tensor([ids])).logits[0]

    return logits
