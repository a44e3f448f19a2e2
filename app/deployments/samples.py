"""Programs that call a deployment and work as pasted: they read the key from DANLU_API_KEY."""

import json
from dataclasses import dataclass

from app.config import settings

QUESTION = "你好，请介绍一下你自己。"

PYTHON = """\
# pip install openai
import os
from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["DANLU_API_KEY"])
stream = client.chat.completions.create(
    model={model},
    messages=[{{"role": "user", "content": {question}}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
"""

JAVA = """\
// Java 11 or newer, nothing else: java Sample.java
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Sample {{
    public static void main(String[] args) throws Exception {{
        String body = {body};
        HttpRequest request = HttpRequest.newBuilder(URI.create({url}))
            .header("Authorization", "Bearer " + System.getenv("DANLU_API_KEY"))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> response = HttpClient.newHttpClient()
            .send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(response.body());
    }}
}}
"""

CURL = """\
curl {url} \\
  -H "Authorization: Bearer $DANLU_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{body}'
"""


@dataclass(frozen=True)
class Sample:
    id: str
    label: str
    text: str


EMBED_PYTHON = """\
# pip install openai
import os
from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["DANLU_API_KEY"])
answer = client.embeddings.create(model={model}, input=[{question}])
print(len(answer.data[0].embedding), answer.data[0].embedding[:4])
"""


def samples(name: str, *, embeds: bool = False) -> list[Sample]:
    """Python, Java and curl for the deployment called `name`, which may give embeddings."""
    base = f"{settings.url}/v1"
    if embeds:
        asked: dict[str, object] = {"model": name, "input": [QUESTION]}
    else:
        asked = {"model": name, "messages": [{"role": "user", "content": QUESTION}]}
    body = json.dumps(asked, ensure_ascii=False)
    url = f"{base}/embeddings" if embeds else f"{base}/chat/completions"
    return [
        Sample(
            "python",
            "Python",
            (EMBED_PYTHON if embeds else PYTHON).format(
                url=json.dumps(base),
                model=json.dumps(name),
                question=json.dumps(QUESTION, ensure_ascii=False),
            ),
        ),
        Sample("java", "Java", JAVA.format(url=json.dumps(url), body=json.dumps(body))),
        Sample("curl", "curl", CURL.format(url=url, body=body)),
    ]


def own_address(deployment_id: str) -> str:
    """The base URL of one deployment alone, as users of SXWL know it: no model need be named."""
    return f"{settings.url}/inference/api/{deployment_id}/v1"
