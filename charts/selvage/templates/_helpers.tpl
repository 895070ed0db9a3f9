{{/* Names are fixed: the platform's namespace, its Service and its accounts are part of certificates and of what proxies dial. */}}
{{- define "selvage.namespace" -}}
{{- if ne .Release.Namespace "selvage-system" -}}
{{- fail "Selvage lives in the namespace selvage-system: add `--namespace selvage-system --create-namespace`" -}}
{{- end -}}
selvage-system
{{- end -}}

{{- define "selvage.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "selvage.selector" -}}
app.kubernetes.io/name: selvage
app.kubernetes.io/component: controller
{{- end -}}

{{- define "selvage.labels" -}}
{{ include "selvage.selector" . }}
app.kubernetes.io/part-of: selvage
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* What the controller reads: see Settings in controller/src/settings.rs. */}}
{{- define "selvage.settings" -}}
{{- $settings := dict
  "image" (include "selvage.image" .)
  "imagePullPolicy" .Values.image.pullPolicy
  "controller" (printf "selvage-controller.selvage-system.svc.%s:15410" .Values.clusterDomain)
  "trustDomain" .Values.trustDomain
  "sidecars" .Values.sidecars
  "gateways" .Values.gateways
-}}
{{ $settings | toPrettyJson }}
{{- end -}}
