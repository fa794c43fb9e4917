// Renders an Ollama TEMPLATE with Go's own text/template, as Ollama executes it for a chat.
//
// stdin: {"template": "…", "conversations": [[{"role": "…", "content": "…"}, …], …]}
// stdout: ["prompt", …]
package main

import (
	"encoding/json"
	"log"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func main() {
	var asked struct {
		Template      string      `json:"template"`
		Conversations [][]message `json:"conversations"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatal(err)
	}
	parsed, err := template.New("").Option("missingkey=zero").Parse(asked.Template)
	if err != nil {
		log.Fatal(err)
	}
	prompts := []string{}
	for _, conversation := range asked.Conversations {
		system, messages := collate(conversation)
		var prompt strings.Builder
		data := map[string]any{"System": system, "Messages": messages, "Response": ""}
		if err := parsed.Execute(&prompt, data); err != nil {
			log.Fatal(err)
		}
		prompts = append(prompts, prompt.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(prompts); err != nil {
		log.Fatal(err)
	}
}

// collate joins all system messages, and merges adjacent messages of one role.
func collate(conversation []message) (string, []*message) {
	var system []string
	var merged []*message
	for i := range conversation {
		current := conversation[i]
		if current.Role == "system" {
			system = append(system, current.Content)
		}
		if last := len(merged) - 1; last >= 0 && merged[last].Role == current.Role {
			merged[last].Content += "\n\n" + current.Content
		} else {
			merged = append(merged, &current)
		}
	}
	return strings.Join(system, "\n\n"), merged
}
