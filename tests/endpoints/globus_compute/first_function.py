"""The contract of FIRST's `vllm_inference_function`, as a function that tests register.

It asks http, not https, because the fake fleet has no certificate; that apart, what goes in, what
comes out and what is raised are as first.md describes compute-functions/ of the gateway.
"""


def vllm_inference_function(parameters):
    import json
    import time
    import urllib.error
    import urllib.request

    given = dict(parameters["model_params"])
    route, port = given.pop("openai_endpoint"), given.pop("api_port")
    began = time.time()
    url = f"http://127.0.0.1:{port}/v1/{route}"
    request = urllib.request.Request(
        url, json.dumps(given).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise Exception(
            "Unexpected error of type Exception: API request failed with status code: "
            f"{error.code}\nResponse text: {error.read().decode()}\nResponse headers: "
            f"{dict(error.headers)}\nResponse time: {time.time() - began}"
        ) from None
    except urllib.error.URLError as error:
        raise Exception(f"Network error occurred: {error}") from None
    answer["response_time"] = time.time() - began
    answer["throughput_tokens_per_second"] = 1.0
    return json.dumps(answer, indent=4)
