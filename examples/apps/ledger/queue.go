package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// serveQueue keeps lines in a queue of the RabbitMQ that the app is bound to.
func serveQueue(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 200))
	var list []string
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		list, err = queued(ctx, string(body))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, strings.Join(list, "\n"))
}

// queued sends a line, unless it is empty, and returns all that are in the queue.
func queued(ctx context.Context, line string) ([]string, error) {
	bound := map[string][]struct{ Credentials struct{ URL string } }{}
	if err := json.Unmarshal([]byte(os.Getenv("VCAP_SERVICES")), &bound); err != nil {
		return nil, fmt.Errorf("cannot read VCAP_SERVICES: %w", err)
	}
	at := ""
	for label, services := range bound {
		if strings.HasPrefix(label, "rabbitmq-") && len(services) > 0 {
			at = services[0].Credentials.URL
		}
	}
	if at == "" {
		return nil, errors.New("no rabbitmq service is bound to this app")
	}
	connection, err := amqp.DialConfig(at, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return nil, err
	}
	defer connection.Close() // gives back what was received and not acknowledged
	channel, err := connection.Channel()
	if err != nil {
		return nil, err
	}
	if _, err := channel.QueueDeclare("lines", true, false, false, false, nil); err != nil {
		return nil, err
	}
	if line != "" {
		if err := channel.Confirm(false); err != nil {
			return nil, err
		}
		c, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", "lines", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(line)})
		if err != nil {
			return nil, err
		}
		if kept, err := c.WaitContext(ctx); err != nil || !kept {
			return nil, errors.Join(errors.New("the queue does not keep the line"), err)
		}
	}
	var list []string
	for {
		m, there, err := channel.Get("lines", false)
		if err != nil || !there {
			return list, err
		}
		list = append(list, string(m.Body))
	}
}
